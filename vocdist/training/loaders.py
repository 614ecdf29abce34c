"""A rank's batches of a split: of images, or of features that are ready."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from accelerate import Accelerator

from vocdist.config import TaskConfig
from vocdist.config.training import DataConfig
from vocdist.data.dataset import DecodedCache, RequestedSamples
from vocdist.data.features import FeatureDataset, FeatureFiles
from vocdist.data.geometry import fit_short_side
from vocdist.data.loader import BatchLoader
from vocdist.data.resident import ImageStore, PlannedSamples
from vocdist.data.transforms import RpnTransform
from vocdist.data.workers import LoaderProcesses, usable_cores
from vocdist.errors import UserError
from vocdist.remote.cache import CacheRule, default_cache
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import FrozenFeatures, Task, task_class
from vocdist.training.feature_cache import SplitImages, cached_features
from vocdist.training.resident_images import resident_images


class Readers(NamedTuple):
    """The two splits that a training needs."""

    train: ShardReader
    val: ShardReader


def build_readers(config: TaskConfig) -> Readers:
    """Open both splits."""
    return Readers(build_reader(config, "train"), build_reader(config, "val"))


def build_reader(config: TaskConfig, split: str) -> ShardReader:
    """Open a split of the configured shards, with its limit.

    Raises:
        UserError: The split is empty, or its shards cannot be read.
    """
    limit = config.data.limit_train if split == "train" else config.data.limit_val
    reader = ShardReader(config.data.shards, split, limit, cache_rule(config.data))
    if not len(reader):
        raise UserError(
            f"{config.data.shards}: its {split} split is empty: make shards with a split_ratio "
            f"that leaves some images for it"
        )
    return reader


def cache_rule(data: DataConfig) -> CacheRule:
    """Where copies of remote shards are kept."""
    return CacheRule(data.cache_dir or default_cache(), data.cache_bytes)


class SplitUse(NamedTuple):
    """A split and what it is for.

    `keep_decoded` allows `data.decoded_cache` and `data.resident`, for a loader that serves more
    than one epoch. `images` are the split's where they stay on the device already.
    """

    reader: ShardReader
    training: bool
    keep_decoded: bool = False
    images: ImageStore | None = None


class TrainingLoaders(NamedTuple):
    """The loaders of a training, and the processes that serve both, to be closed at its end."""

    train: BatchLoader
    val: BatchLoader
    processes: LoaderProcesses


def training_loaders(
    config: TaskConfig, task: Task, readers: Readers, accelerator: Accelerator
) -> TrainingLoaders:
    """The train and val loader of a training (a collective), see `split_loaders`."""
    uses = [SplitUse(readers.train, True, True), SplitUse(readers.val, False, True)]
    train, val = split_loaders(config, task, uses, accelerator)
    processes = LoaderProcesses(
        [train.dataset, val.dataset],
        workers=train.num_workers,
        pin_memory=train.pin_memory,
        kept=True,
    )
    train.share(processes)
    val.share(processes)
    return TrainingLoaders(train, val, processes)


def split_loaders(
    config: TaskConfig, task: Task, uses: Sequence[SplitUse], accelerator: Accelerator
) -> list[BatchLoader]:
    """The loaders of splits for a task whose model is on its device (a collective).

    Features are computed by the frozen layers as they are now: load a checkpoint first.

    Raises:
        UserError: Features are to be kept that depend on their batch, or there is no room for them.
    """
    features: list[FeatureFiles] | list[None] = [None] * len(uses)
    images: Sequence[ImageStore | None] = [use.images for use in uses]
    frozen = task.frozen_features(config)
    if frozen:
        features = _features(config, frozen, uses, accelerator)
    elif all(use.keep_decoded for use in uses):
        readers = [use.reader for use in uses]
        images = resident_images(config, readers, accelerator) or images
    return [
        build_loader(
            config,
            use.reader,
            training=use.training,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            pin_memory=accelerator.device.type == "cuda",
            features=files,
            keep_decoded=use.keep_decoded,
            images=store,
        )
        for use, files, store in zip(uses, features, images, strict=True)
    ]


def split_loader(
    config: TaskConfig,
    task: Task,
    reader: ShardReader,
    accelerator: Accelerator,
    *,
    training: bool,
    images: ImageStore | None = None,
) -> BatchLoader:
    """The loader of one split that is gone through once (a collective), see `split_loaders`."""
    use = SplitUse(reader, training, images=images)
    return split_loaders(config, task, [use], accelerator)[0]


def build_loader(
    config: TaskConfig,
    reader: ShardReader,
    *,
    training: bool,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    features: FeatureFiles | None = None,
    keep_decoded: bool = False,
    images: ImageStore | None = None,
) -> BatchLoader:
    """A rank's batches of a split, with the task's geometry; pin memory that a GPU will copy.

    With `features` (of an RPN's split) or the split's `images` no image is read. `keep_decoded`
    allows the cache that the config asks for, where epochs will follow each other.
    """
    task = task_class(config.task)
    transform = task.transform(config, len(reader.manifest.classes), training=training)
    dataset: RequestedSamples | FeatureDataset
    if features is not None:
        assert isinstance(transform, RpnTransform)
        dataset = FeatureDataset(reader, features, transform, config.train.seed)
    elif images is not None:
        dataset = PlannedSamples(reader, transform, config.train.seed, config.data.short_side)
    else:
        cache = _cache(config, reader) if keep_decoded and config.data.decoded_cache else None
        dataset = RequestedSamples(
            reader, transform, config.train.seed, config.data.short_side, cache
        )
    return BatchLoader(
        dataset,
        config.train.global_batch if training else config.train.eval_batch,
        rank=rank,
        world_size=world_size,
        parts=config.train.accumulate,
        # Features are read faster than a worker could hand them over.
        num_workers=0 if features else config.data.num_workers,
        drop_last=config.train.drop_last,
        padding=task.padding(config, training=training),
        pin_memory=pin_memory,
        shuffle_shards=config.data.shuffle_shards,
        images=images,
    )


def _features(
    config: TaskConfig, frozen: FrozenFeatures, uses: Sequence[SplitUse], accelerator: Accelerator
) -> list[FeatureFiles]:
    pin = accelerator.device.type == "cuda"
    splits = [
        SplitImages(
            build_loader(config, use.reader, training=False, pin_memory=pin),
            mirrored=use.training and frozen.mirrored,
        )
        for use in uses
    ]
    model, settings, geometry, _ = frozen
    return cached_features(model, splits, accelerator, settings, geometry=geometry)


def _cache(config: TaskConfig, reader: ShardReader) -> DecodedCache:
    data = config.data
    samples = [
        min(limit or part.samples, part.samples)
        for part, limit in (
            (reader.manifest.splits["train"], data.limit_train),
            (reader.manifest.splits["val"], data.limit_val),
        )
    ]
    # Each split gets the part of the memory that is its part of the samples.
    max_bytes = int(data.decoded_cache or 0) * len(reader) // sum(samples)
    sizes = [fit_short_side(h, w, data.short_side) for h, w in reader.image_sizes.tolist()]
    return DecodedCache(np.asarray(sizes), max_bytes, min(data.num_workers, usable_cores()))
