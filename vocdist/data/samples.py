"""A split of the shards as plain samples, for notebooks and for models other than ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from vocdist.data.dataset import decode_image
from vocdist.remote.location import parse_location
from vocdist.shards.reader import ShardReader
from vocdist.voc.rows import rows_to_xyxy


@dataclass(frozen=True)
class Sample:
    """One image with its objects.

    Attributes:
        key: The file stem it had.
        image: (3, H, W) uint8 RGB, as stored.
        boxes: (N, 4) float32 xyxy, half-open, in pixels of that image.
        labels: (N,) int64, places in the data set's `classes`.
        difficult: (N,) bool.
    """

    key: str
    image: Tensor
    boxes: Tensor
    labels: Tensor
    difficult: Tensor


class ShardDataset(Dataset[Sample]):
    """The samples of one split, by number; nothing is cropped, scaled or drawn at random.

    Attributes:
        classes: Class names; a label is a place in them.
    """

    def __init__(self, folder: str | Path, split: str = "train", limit: int | None = None) -> None:
        """Open shards in a folder or at a URL; `limit` takes the first so many samples.

        Raises:
            UserError: There are no shards, or no such split.
        """
        self._reader = ShardReader(parse_location(folder), split, limit)
        self.classes = self._reader.manifest.classes

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        """Read and decode one; a negative index counts from the end."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        stored = self._reader.read(index % len(self))
        notes = stored.annotations
        boxes = rows_to_xyxy(notes.boxes, notes.width, notes.height)
        return Sample(
            key=notes.key,
            image=decode_image(stored.jpeg, f"{self._reader.folder}: sample {notes.key}"),
            boxes=torch.from_numpy(boxes),
            labels=torch.from_numpy(notes.boxes[:, 0].astype("int64")),
            difficult=torch.from_numpy(notes.difficult.copy()),
        )

    def __iter__(self) -> Iterator[Sample]:
        """All of them, in the order of the shards."""
        return (self[index] for index in range(len(self)))
