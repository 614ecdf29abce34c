"""A rank's batches of a split on this machine: of images, or of features that are ready."""

from accelerate import Accelerator

from vocdist.config import RpnConfig, TaskConfig
from vocdist.data.feature_files import FeatureFiles
from vocdist.data.loader import BatchLoader
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader
from vocdist.training.build import build_loader
from vocdist.training.features import cached_features
from vocdist.training.rpn_task import ProposalModel
from vocdist.training.task import Task


def split_loader(
    config: TaskConfig,
    task: Task,
    reader: ShardReader,
    accelerator: Accelerator,
    *,
    training: bool,
    keep_decoded: bool = False,
) -> BatchLoader:
    """The loader of a split for a task whose model is on its device (a collective).

    `keep_decoded` allows `data.decoded_cache`, for a loader that serves more than one epoch.

    Features are computed by the frozen layers as they are now: load a checkpoint first.

    Raises:
        UserError: Features are to be kept that depend on their batch, or there is no room for them.
    """
    features = None
    if isinstance(config, RpnConfig) and config.features.cache:
        assert isinstance(task.model, ProposalModel)
        features = _features(config, task.model, reader, accelerator, mirrored=training)
    return build_loader(
        config,
        reader,
        training=training,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
        features=features,
        keep_decoded=keep_decoded,
    )


def _features(
    config: RpnConfig,
    model: ProposalModel,
    reader: ShardReader,
    accelerator: Accelerator,
    *,
    mirrored: bool,
) -> FeatureFiles:
    box = config.input
    if not box.snap:
        raise UserError(
            "features.cache=true keeps features of images, which padding would make depend on "
            "their batch: set input.snap=true, or features.cache=false"
        )
    return cached_features(
        model,
        build_loader(config, reader, training=False, pin_memory=accelerator.device.type == "cuda"),
        accelerator,
        config.features,
        geometry=(box.short_side, box.long_side, box.pad_multiple, config.data.short_side or 0),
        mirrored=mirrored and box.flip,
    )
