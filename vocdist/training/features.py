"""The features of a split, computed once by the frozen backbone and found again by every run.

A file's name is a hash of all that its content depends on: the backbone's weights and levels, the
geometry of the images, and the shard. Whoever needs a file that is not there makes it; the ranks
of a machine share the work.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from vocdist.config.rpn import FeaturesConfig
from vocdist.data.batch import Batch
from vocdist.data.feature_files import (
    STORED_DTYPE,
    FeatureFiles,
    FeatureUnit,
    is_whole,
    write_features,
)
from vocdist.data.loader import BatchLoader, ahead_of_use
from vocdist.errors import UserError
from vocdist.models.backbone import FrozenBackbone
from vocdist.shards.reader import ShardReader
from vocdist.training.accelerator import local_ranks, raise_together
from vocdist.training.feature_room import Hold, hold_with_room
from vocdist.training.rpn_task import ProposalModel

# Bounds what is in memory while a file is made, and lost when a run is killed meanwhile.
SAMPLES_PER_FILE = 250


class SplitImages(NamedTuple):
    """A split's unmirrored images, not padded, and whether features of mirrored ones are wanted."""

    images: BatchLoader
    mirrored: bool


def cached_features(
    model: ProposalModel,
    splits: Sequence[SplitImages],
    accelerator: Accelerator,
    config: FeaturesConfig,
    *,
    geometry: tuple[int, ...],
) -> list[FeatureFiles]:
    """Each split's features, computed where they are missing (a collective).

    Room is made for all of them at once, and no other run removes them while one of them is in use.
    The images are snapped and not padded (`Padding.snap`): then features do not depend on what else
    is in a batch. Each file's batches are a function of its samples, so the same features come out
    on any number of ranks.

    Raises:
        UserError: They would take more room than allowed, or than there is.
    """
    identity = [backbone_hash(model.backbone), *map(str, geometry), str(accelerator.device.type)]
    plans = [
        plan_units(split.images.dataset.reader, config.folder, identity, mirrored=split.mirrored)
        for split in splits
    ]
    failure, hold = "", None
    if accelerator.is_local_main_process:
        try:
            hold = _hold(model, splits, plans, config)
        except UserError as error:
            failure = str(error)
    raise_together(accelerator, failure)
    for split, units in zip(splits, plans, strict=True):
        own = units[accelerator.local_process_index :: local_ranks()]
        missing = [unit for unit in own if not _is_there(unit)]
        if missing:
            _fill(model, split.images, missing, accelerator)
    accelerator.wait_for_everyone()
    return [FeatureFiles(units, len(model.backbone.strides), hold) for units in plans]


def _hold(
    model: ProposalModel,
    splits: Sequence[SplitImages],
    plans: Sequence[Sequence[FeatureUnit]],
    config: FeaturesConfig,
) -> Hold:
    sizes: dict[Path, float] = {}
    for split, units in zip(splits, plans, strict=True):
        bytes_per_image = feature_bytes(model.backbone, split.images)
        for unit in units:
            sizes |= dict.fromkeys(unit.files, (unit.stop - unit.first) * bytes_per_image)
    return hold_with_room(config.folder, sizes, config.max_gib)


def plan_units(
    reader: ShardReader, folder: Path, identity: list[str], *, mirrored: bool
) -> list[FeatureUnit]:
    """The files of a split, each of samples of one shard, named by what they depend on."""
    units, start = [], 0
    for shard, samples in reader.shard_samples:
        for first in range(0, samples, SAMPLES_PER_FILE):
            stop = min(first + SAMPLES_PER_FILE, samples)
            content = [*identity, torch.__version__, shard.sha256, str(first), str(stop)]
            files = tuple(
                folder / f"{_digest([*content, copy])}.safetensors"
                for copy in (("plain", "mirrored") if mirrored else ("plain",))
            )
            units.append(FeatureUnit(start + first, start + stop, files))
        start += samples
    return units


def backbone_hash(backbone: FrozenBackbone) -> str:
    """SHA-256 of the layers that the levels come from: their names and weights."""
    digest = hashlib.sha256(json.dumps([backbone.name, backbone.strides]).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


@torch.no_grad()
def _fill(
    model: ProposalModel, images: BatchLoader, units: list[FeatureUnit], accelerator: Accelerator
) -> None:
    count = sum(unit.stop - unit.first for unit in units)
    accelerator.print(f"features of {count:,} images are computed once, for all epochs")
    plan = [images.batches_within(unit.first, unit.stop) for unit in units]
    batches = ahead_of_use(
        images.grouped([batch for of_unit in plan for batch in of_unit]), accelerator.device
    )
    for unit, of_unit in zip(units, plan, strict=True):
        copies = _copies(model, batches, len(of_unit), unit)
        for path, samples in zip(unit.files, copies, strict=True):
            write_features(path, samples)


def _copies(
    model: ProposalModel, batches: Iterator[Batch], count: int, unit: FeatureUnit
) -> list[list[list[Tensor]]]:
    """For each copy the levels of each sample of a unit, which the next `count` batches hold."""
    copies: list[list[list[Tensor]]] = [[[]] * (unit.stop - unit.first) for _ in unit.files]
    for _ in range(count):
        batch = next(batches)
        for copy, pixels in zip(copies, (batch.images, batch.images.flip(3)), strict=False):
            levels = [
                level.to(STORED_DTYPE).permute(0, 2, 3, 1).cpu()
                for level in model.features((pixels,), batch.targets["image_size"])
            ]
            for row, index in enumerate(batch.indices.tolist()):
                # A copy of its own: a view would keep the whole batch in float32 alive.
                copy[index - unit.first] = [level[row].clone() for level in levels]
    return copies


def _is_there(unit: FeatureUnit) -> bool:
    whole = all(is_whole(path, unit.stop - unit.first) for path in unit.files)
    if whole:
        for path in unit.files:
            # The oldest go first when room is needed.
            os.utime(path)
    return whole


def feature_bytes(backbone: FrozenBackbone, images: BatchLoader) -> float:
    """Mean size of one image's features in bytes, from the scaled sizes."""
    area = float(images.scaled_areas().mean())
    numbers: float = sum(
        channels * area / stride**2
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    )
    return numbers * STORED_DTYPE.itemsize


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
