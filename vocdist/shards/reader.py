"""Random access to the samples of one split: an offset table and `pread`, no tar walk, no unpickle.

A reader may be copied into loader processes by fork or pickle: descriptors are opened per process.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vocdist.errors import UserError
from vocdist.shards.index import IndexEntry, index_path, read_index
from vocdist.shards.manifest import Manifest, load_manifest
from vocdist.voc.annotation import multi_hot


@dataclass(frozen=True, slots=True)
class Annotations:
    """The stored record of one sample, as arrays.

    Attributes:
        key: The sample's key in its shard.
        width: Of the stored image, pixels.
        height: Of the stored image, pixels.
        boxes: (N, 5) int32 rows `[class_id, x, y, w, h]` as in the XML (1-based minima).
        difficult: (N,) bool.
    """

    key: str
    width: int
    height: int
    boxes: np.ndarray
    difficult: np.ndarray

    def multi_hot(self, classes: int) -> np.ndarray:
        """(classes,) int8, 1 for each class that has a box."""
        return multi_hot(self.boxes, classes)


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One sample as stored: encoded JPEG bytes and its annotations."""

    jpeg: bytes
    annotations: Annotations


class ShardReader:
    """A split as a sequence of samples, in shard order.

    Args:
        folder: A shard folder.
        split: Name of a split in its manifest.
        limit: Use the first this many samples; None for all.

    Raises:
        UserError: No manifest, no such split, or a shard whose size or count is not the manifest's.
    """

    def __init__(self, folder: Path, split: str, limit: int | None = None) -> None:
        """Check the shards' sizes against the manifest and load their offset tables."""
        self.folder = folder
        self.split = split
        self.manifest: Manifest = load_manifest(folder)
        if split not in self.manifest.splits:
            names = ", ".join(self.manifest.splits)
            raise UserError(f"{folder}: no split '{split}'; its manifest has {names}")
        self._shards = [folder / shard.name for shard in self.manifest.splits[split].shards]
        self._entries: list[tuple[int, IndexEntry]] = []
        for number, record in enumerate(self.manifest.splits[split].shards):
            _check_size(self._shards[number], record.bytes)
            entries = read_index(index_path(self._shards[number]))
            if len(entries) != record.samples:
                raise UserError(
                    f"{index_path(self._shards[number])}: {len(entries)} samples where the "
                    f"manifest states {record.samples}: make the shards again"
                )
            self._entries += [(number, entry) for entry in entries]
        self._entries = self._entries[:limit]
        self._descriptors: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._entries)

    def read(self, index: int) -> StoredSample:
        """Read one sample with one system call."""
        number, entry = self._entries[index]
        # The two members lie side by side, so one read spans both and the tar header between them.
        end = entry.json_offset + entry.json_size
        span = self._pread(number, entry.jpg_offset, end - entry.jpg_offset)
        return StoredSample(
            jpeg=span[: entry.jpg_size],
            annotations=_annotations(span[entry.json_offset - entry.jpg_offset :]),
        )

    @cached_property
    def annotations(self) -> list[Annotations]:
        """Every sample's annotations, read once (some 30 µs a sample)."""
        return [
            _annotations(self._pread(number, entry.json_offset, entry.json_size))
            for number, entry in self._entries
        ]

    @property
    def image_sizes(self) -> np.ndarray:
        """(N, 2) int64 rows (height, width) of the stored images, pixels."""
        sizes = [(record.height, record.width) for record in self.annotations]
        return np.asarray(sizes, dtype=np.int64).reshape(-1, 2)

    @property
    def labels(self) -> np.ndarray:
        """(N, classes) int8 multi-hot: which classes have a box in which image."""
        classes = len(self.manifest.classes)
        rows = [record.multi_hot(classes) for record in self.annotations]
        return np.array(rows, dtype=np.int8).reshape(-1, classes)

    def _pread(self, number: int, offset: int, size: int) -> bytes:
        # Keyed by process: a descriptor inherited over fork would be closed twice.
        slot = (os.getpid(), number)
        if slot not in self._descriptors:
            self._descriptors[slot] = os.open(self._shards[number], os.O_RDONLY)
        data = os.pread(self._descriptors[slot], size, offset)
        if len(data) != size:
            raise UserError(f"{self._shards[number]}: cut short while in use: make it again")
        return data

    def __getstate__(self) -> dict[str, Any]:
        """Leave descriptors and the annotation cache behind when sent to another process."""
        state = self.__dict__ | {"_descriptors": {}}
        state.pop("annotations", None)
        return state

    def __del__(self) -> None:
        """Close this process's descriptors."""
        for (process, _), descriptor in getattr(self, "_descriptors", {}).items():
            if process == os.getpid():
                os.close(descriptor)


def _check_size(shard: Path, expected: int) -> None:
    try:
        size = shard.stat().st_size
    except FileNotFoundError:
        raise UserError(
            f"{shard}: in the manifest but not on disk: make the shards again"
        ) from None
    if size != expected:
        raise UserError(
            f"{shard}: {size} bytes where the manifest states {expected}: make the shards again"
        )


def _annotations(stored: bytes) -> Annotations:
    record = json.loads(stored)
    return Annotations(
        key=record["key"],
        width=record["width"],
        height=record["height"],
        boxes=np.asarray(record["boxes"], dtype=np.int32).reshape(-1, 5),
        difficult=np.asarray(record["difficult"], dtype=bool),
    )
