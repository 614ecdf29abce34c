"""Frozen features kept in files, and batches of them."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from vocdist.data.batch import Batch, SampleRequest, assemble
from vocdist.data.transforms import RpnTransform
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.shards.reader import ShardReader

# Half the size of float32; what training sees has been rounded to it in every epoch.
STORED_DTYPE = torch.float16


@dataclass(frozen=True, slots=True)
class FeatureUnit:
    """Consecutive samples of a split, `first` to `stop`, and the file of each copy of them.

    `files` holds the features of the images as they are and, where there is a second, mirrored.
    """

    first: int
    stop: int
    files: tuple[Path, ...]


def write_features(path: Path, samples: Sequence[Sequence[Tensor]]) -> None:
    """Write each sample's levels, (h_l, w_l, C_l) fp16 on the CPU, as one file.

    Raises:
        UserError: A feature is beyond fp16's range, or the disk is full.
    """
    tensors = {
        f"{position}.{level}": features.contiguous()
        for position, levels in enumerate(samples)
        for level, features in enumerate(levels)
    }
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise UserError(
            f"{path}: features beyond the range of fp16: set features.cache=false, or check the "
            f"weights that model.classifier names"
        )
    checksums = [_checksum(levels) for levels in samples]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_when_done(path) as temporary:
            # Made in memory first: a full disk is a plain OSError then.
            temporary.write_bytes(save(tensors, metadata={"crc32": json.dumps(checksums)}))
    except OSError as error:
        raise UserError(
            f"{path.parent}: features cannot be written ({error.strerror or error}): free some "
            f"space, name another features.folder, or set features.cache=false"
        ) from None


def is_whole(path: Path, samples: int | None = None) -> bool:
    """Whether a file is there and its samples, this many if given, have the checksums it states."""
    try:
        with safe_open(path, framework="pt") as file:
            checksums = json.loads((file.metadata() or {}).get("crc32", "[]"))
            levels = len(file.keys()) // max(1, len(checksums))
            return samples in (None, len(checksums)) and all(
                _checksum(_levels(file, position, levels)) == checksum
                for position, checksum in enumerate(checksums)
            )
    except (OSError, SafetensorError, ValueError):
        return False


class FeatureFiles:
    """The features of a split's samples, by index."""

    def __init__(
        self, units: Sequence[FeatureUnit], levels: int, hold: object | None = None
    ) -> None:
        """`units` cover the split in order; each file has `levels` tensors a sample.

        `hold` keeps the files from removal: it lives as long as this does.
        """
        self._hold = hold
        self.units = tuple(units)
        self.levels = levels
        self._starts = np.array([unit.first for unit in units])
        self._open: dict[Path, Any] = {}

    @property
    def mirrored(self) -> bool:
        """Whether there is a second copy, of the mirrored images."""
        return len(self.units[0].files) > 1

    def read(self, index: int, *, mirrored: bool = False) -> list[Tensor]:
        """One sample's levels, (h_l, w_l, C_l) fp16, finest first."""
        unit = self.units[int(np.searchsorted(self._starts, index, side="right")) - 1]
        path = unit.files[int(mirrored)]
        if path not in self._open:
            self._open[path] = _opened(path)
        position = index - unit.first
        return _levels(self._open[path], position, self.levels)

    def __getstate__(self) -> dict[str, object]:
        """Leave the open files and the hold behind when sent to another process."""
        return self.__dict__ | {"_open": {}, "_hold": None}


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: a file of cached features went away or was cut ({error}): start again, it "
            f"will be made anew"
        ) from None


def _levels(file: Any, position: int, levels: int) -> list[Tensor]:
    return [file.get_tensor(f"{position}.{level}") for level in range(levels)]


def _checksum(levels: Sequence[Tensor]) -> int:
    checksum = 0
    for features in levels:
        checksum = zlib.crc32(features.contiguous().numpy().data, checksum)
    return checksum


FeatureItem = tuple[SampleRequest, list[Tensor], Mapping[str, Tensor], int]


class FeatureDataset(Dataset[FeatureItem]):
    """What `RequestedSamples` with the same transform and seed gives, as features of the images."""

    def __init__(
        self, reader: ShardReader, files: FeatureFiles, transform: RpnTransform, seed: int
    ) -> None:
        """`transform` says how the images were scaled, and whether mirrored ones are drawn."""
        self.reader = reader
        self.files = files
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        """Number of samples in the split."""
        return len(self.reader)

    def __getitem__(self, request: SampleRequest) -> FeatureItem:
        """The request, the sample's levels (h_l, w_l, C_l), its targets and its seed."""
        annotations = self.reader.annotations[request.index]
        # As in `RequestedSamples`: the same draws, in the same order.
        rng = np.random.default_rng([self.seed, request.epoch, request.index])
        seed = int(rng.integers(2**62))
        mirrored = self.transform.draws_mirror(rng)
        levels = self.files.read(request.index, mirrored=mirrored)
        stored = annotations.height, annotations.width
        return request, levels, self.transform.targets(annotations, stored, mirrored=mirrored), seed

    def collate(self, items: Sequence[FeatureItem]) -> Batch:
        """Samples of equal image size as a batch of features."""
        requests, levels, targets, seeds = zip(*items, strict=True)
        size = requests[0].padded
        assert size is not None, "features are of images of varying size"
        inputs = tuple(
            torch.stack(level).permute(0, 3, 1, 2) for level in zip(*levels, strict=True)
        )
        return assemble(inputs, size, targets, requests, seeds)
