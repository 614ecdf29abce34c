"""The features of a split, computed once by the frozen backbone and found again by every run.

A file's name is a hash of all that its content depends on: the backbone's weights and levels, the
geometry of the images, and the shard. Whoever needs a file that is not there makes it; the ranks
of a machine share the work.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

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
from vocdist.training.rpn_task import ProposalModel

# Bounds what is in memory while a file is made, and lost when a run is killed meanwhile.
SAMPLES_PER_FILE = 250
GIB = 2**30


def cached_features(
    model: ProposalModel,
    images: BatchLoader,
    accelerator: Accelerator,
    config: FeaturesConfig,
    *,
    geometry: tuple[int, ...],
    mirrored: bool,
) -> FeatureFiles:
    """The split's features, computed where they are missing (a collective).

    `images` gives the split's unmirrored images, not padded (`Padding.snap`): then features do not
    depend on what else is in a batch. Each file's batches are a function of its samples, so the
    same features come out on any number of ranks.

    Raises:
        UserError: They would take more room than allowed, or than there is.
    """
    reader = images.dataset.reader
    identity = [backbone_hash(model.backbone), *map(str, geometry), str(accelerator.device.type)]
    units = plan_units(reader, config.folder, identity, mirrored=mirrored)
    if accelerator.is_local_main_process:
        absent = sum(
            unit.stop - unit.first for unit in units for path in unit.files if not path.is_file()
        )
        needed = absent * _bytes_per_image(model.backbone, images)
        make_room(config.folder, needed, config.max_gib, keep={f for u in units for f in u.files})
    accelerator.wait_for_everyone()
    own = units[accelerator.local_process_index :: _local_ranks()]
    missing = [unit for unit in own if not _is_there(unit)]
    if missing:
        _fill(model, images, missing, accelerator)
    accelerator.wait_for_everyone()
    return FeatureFiles(units, len(model.backbone.strides))


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


def make_room(folder: Path, needed: float, max_gib: float, keep: set[Path]) -> None:
    """Remove the files used longest ago until `needed` bytes more are within bounds.

    Raises:
        UserError: What is kept and what is needed exceed the bound, or the disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {path: path.stat() for path in folder.glob("*.safetensors")}
    total = needed + sum(stat.st_size for stat in files.values())
    for path in sorted(files.keys() - keep, key=lambda path: files[path].st_mtime):
        if total <= max_gib * GIB:
            break
        path.unlink(missing_ok=True)
        total -= files[path].st_size
    free = shutil.disk_usage(folder).free
    remedy = "lower input.short_side, set input.flip=false, or compute them in each epoch with "
    if total > max_gib * GIB:
        raise UserError(
            f"{folder}: features would take {total / GIB:.1f} GiB, more than features.max_gib="
            f"{max_gib:g}: raise it, {remedy}features.cache=false"
        )
    if needed > free:
        raise UserError(
            f"{folder}: features take {needed / GIB:.1f} GiB more and the disk has "
            f"{free / GIB:.1f}: name another features.folder, {remedy}features.cache=false"
        )


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


def _bytes_per_image(backbone: FrozenBackbone, images: BatchLoader) -> float:
    """Mean size of one image's features, from the scaled sizes."""
    area = float(images.scaled_areas().mean())
    numbers: float = sum(
        channels * area / stride**2
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    )
    return numbers * STORED_DTYPE.itemsize


def _local_ranks() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
