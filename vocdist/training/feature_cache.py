"""Frozen features, computed once into files within a bound, shared by processes and runs."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import PIL
import simplejpeg
import torch
from accelerate import Accelerator
from torch import Tensor

from vocdist.config.rpn import FeaturesConfig
from vocdist.data.batch import Batch
from vocdist.data.features import STORED_DTYPE, FeatureFiles, FeatureUnit, is_whole, write_features
from vocdist.data.loader import BatchLoader, ahead_of_use
from vocdist.distributed.processes import local_ranks, raise_together
from vocdist.errors import UserError
from vocdist.files.atomic import remove_temporaries, unique_name
from vocdist.files.checked import forget, is_still_right
from vocdist.files.lock import locked
from vocdist.models.backbone import FrozenBackbone
from vocdist.models.rpn.network import ProposalModel
from vocdist.shards.reader import ShardReader

GIB = 2**30
_LOCK = ".lock"
_IN_USE = "in-use"
_REMEDY = "lower input.short_side, set input.flip=false, or compute them in each epoch with "


class Hold:
    """Keeps files from removal, those that are yet to be made too, for as long as it lives.

    They are listed in a file of its own, locked until it is released or its process is gone.
    """

    def __init__(self, folder: Path, sizes: Mapping[Path, float]) -> None:
        """Hold files of `folder`, which is locked, and say how many bytes each takes."""
        # Not by the writer in its name, but by its lock is seen whether it is left behind: the lock
        # lives for the days of a training, on whichever host.
        name = f".{unique_name()}.{_IN_USE}"
        self._path, self._process = folder / name, os.getpid()
        self._lock = ExitStack()
        self._lock.enter_context(locked(self._path, create=True))
        lines = (f"{size:.0f} {path.name}" for path, size in sizes.items())
        self._path.write_text("\n".join(lines), encoding="utf-8")

    def release(self) -> None:
        """Let the files go."""
        # A forked child has the object and not the lock.
        if self._process == os.getpid():
            self._path.unlink(missing_ok=True)
            self._lock.close()

    def __del__(self) -> None:
        """Let the files go with whatever used them."""
        with suppress(OSError):
            self.release()


def hold_with_room(folder: Path, sizes: Mapping[Path, float], max_gib: float) -> Hold:
    """Hold files of these many bytes in `folder`, and make room for those that are missing.

    Of the files that nobody holds those go that were used longest ago.

    Raises:
        UserError: They exceed the bound or the disk, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One at a time: who looks for room sees what all others hold.
        with locked(folder / _LOCK, create=True):
            remove_temporaries(folder)
            _make_room(folder, sizes, max_gib)
            return Hold(folder, sizes)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be used for cached features ({error.strerror}): "
            f"name another features.folder, or set features.cache=false"
        ) from None


def _make_room(folder: Path, sizes: Mapping[Path, float], max_gib: float) -> None:
    there = {path: path.stat() for path in folder.glob("*.safetensors")}
    actual = {path: float(stat.st_size) for path, stat in there.items()}
    own = {path: actual.get(path, size) for path, size in sizes.items()}
    others = {path: actual.get(path, size) for path, size in _held(folder).items()}
    kept = sum((own | others).values())
    if kept > max_gib * GIB:
        beside = f"and with those of runs that are going {kept / GIB:.3g} " if others else ""
        raise UserError(
            f"{folder}: the features of this run's splits take {sum(own.values()) / GIB:.3g} GiB "
            f"{beside}in all, more than features.max_gib={max_gib:g}: raise it to at least "
            f"{kept / GIB * 1.02:.3g}, {_REMEDY}features.cache=false"
        )
    total = sum((actual | own | others).values())
    unused = actual.keys() - own.keys() - others.keys()
    for path in sorted(unused, key=lambda path: max(there[path].st_mtime, there[path].st_atime)):
        if total <= max_gib * GIB:
            break
        path.unlink(missing_ok=True)
        forget(path)
        total -= actual[path]
    missing = sum(size for path, size in own.items() if path not in there)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(
            f"{folder}: features take {missing / GIB:.3g} GiB more and the disk has "
            f"{free / GIB:.3g}: name another features.folder, {_REMEDY}features.cache=false"
        )


def _held(folder: Path) -> dict[Path, float]:
    """Sizes of the files that others hold; what killed runs have held is let go."""
    held: dict[Path, float] = {}
    for path in folder.glob(f".*.{_IN_USE}"):
        with locked(path, wait=False) as left_behind:
            if left_behind is not None:
                path.unlink(missing_ok=True)
                continue
        with suppress(FileNotFoundError):  # released at this moment
            for line in path.read_text(encoding="utf-8").splitlines():
                size, _, name = line.partition(" ")
                held[folder / name] = float(size)
    return held


# Raise it when decoding, scaling, snapping or normalising changes: features kept before are then
# found no more, and go when room is needed.
PREPROCESSING_VERSION = 1

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
        plan_units(
            split.images.dataset.reader,
            config.folder,
            # Convolutions round otherwise in batches of another size.
            [*identity, str(split.images.global_batch)],
            mirrored=split.mirrored,
        )
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
            content = [*identity, *preprocessing(), shard.sha256, str(first), str(stop)]
            files = tuple(
                folder / f"{_digest([*content, copy])}.safetensors"
                for copy in (("plain", "mirrored") if mirrored else ("plain",))
            )
            units.append(FeatureUnit(start + first, start + stop, files))
        start += samples
    return units


def preprocessing() -> tuple[str, ...]:
    """What makes the backbone's input of a stored image, and features of that, by its versions."""
    return str(PREPROCESSING_VERSION), torch.__version__, PIL.__version__, simplejpeg.__version__


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
    whole = all(_is_whole(path, unit.stop - unit.first) for path in unit.files)
    if whole:
        for path in unit.files:
            # The oldest go first when room is needed. The other time tells that a file changed.
            with suppress(OSError):
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    return whole


def _is_whole(path: Path, samples: int) -> bool:
    """As `is_whole`, which reads all of a file: once, until the file changes."""
    return is_still_right(path, lambda: is_whole(path, samples), f"samples {samples}")


def drop_damaged_features(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Read every file of features in a folder: (its path, whether it was right).

    A damaged one is removed and made anew by the next run that needs it.
    """
    for path in sorted(folder.glob("*.safetensors")):
        forget(path)
        right = is_whole(path)
        if not right:
            path.unlink(missing_ok=True)
        yield path, right


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
