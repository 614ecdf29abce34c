"""Map-style datasets of a split: all of its samples, or those that are requested."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from vocdist.data.batch import Batch, SampleRequest, collate
from vocdist.data.geometry import fit_short_side, shrink
from vocdist.data.transforms import Example, Plan, Transform
from vocdist.errors import UserError
from vocdist.remote.location import parse_location
from vocdist.shards.format import Annotations
from vocdist.shards.images import DEEP, bits_a_channel
from vocdist.shards.reader import ShardReader
from vocdist.voc.annotation import rows_to_xyxy


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


def decode_image(encoded: bytes, name: str, remedy: str = "convert it again") -> Tensor:
    """Decode JPEG bytes to (3, H, W) uint8 RGB, NHWC in memory, in stored pixels.

    EXIF rotation is not applied: VOC's boxes refer to the stored pixels. The error's message has
    `name` and `remedy`.

    Raises:
        UserError: The bytes are no image that can be decoded.
    """
    try:
        # The same pixels as Pillow's, in some two thirds of its time.
        pixels = simplejpeg.decode_jpeg(encoded) if _is_plain(encoded) else _with_pillow(encoded)
    except (ValueError, OSError, UnidentifiedImageError) as error:
        if (bits := bits_a_channel(encoded)) > 8:
            raise UserError(f"{name}: {DEEP.format(bits)}") from None
        raise UserError(f"{name}: not a readable JPEG ({error}): {remedy}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _is_plain(encoded: bytes) -> bool:
    """Whether the colours are RGB or grey; printers' CMYK is left to Pillow."""
    _, _, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
    return colorspace in ("RGB", "YCbCr", "Gray")


def _with_pillow(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.array(image.convert("RGB"))


class DecodedCache:
    """The first images of a split, as many as have room; each is decoded once, by whoever needs it.

    Nothing but time depends on it: what is read back are the bytes that were put in.
    """

    def __init__(self, sizes: np.ndarray, max_bytes: int, workers: int) -> None:
        """Reserve the memory.

        Args:
            sizes: (N, 2) rows (height, width) of the decoded images, pixels.
            max_bytes: Upper bound of the memory.
            workers: Loader processes that will share it; with 0 this process keeps it to itself.

        Raises:
            UserError: The system has less shared memory than that.
        """
        ends = np.cumsum(sizes.astype(np.int64).prod(axis=1) * 3)
        self._kept = int(np.searchsorted(ends, max_bytes, side="right"))
        self._sizes = sizes[: self._kept]
        self._starts = np.concatenate([[0], ends])[: self._kept + 1]
        self._pixels = _memory(int(self._starts[-1]), shared=workers > 0)
        self._filled = _memory(self._kept, shared=workers > 0).zero_()
        # Hits and misses of each process in a row of its own, since they count at the same time.
        counts = _memory((workers + 1) * 2 * 8, shared=workers > 0).zero_()
        self._counts = counts.view(torch.int64).view(workers + 1, 2)

    def __len__(self) -> int:
        """Images that have room."""
        return self._kept

    def get(self, index: int) -> Tensor | None:
        """The image (3, H, W) uint8, NHWC in memory, not to be written to; None when not here."""
        here = index < self._kept and bool(self._filled[index])
        worker = get_worker_info()
        self._counts[0 if worker is None else worker.id + 1, 0 if here else 1] += 1
        return self._slot(index) if here else None

    def put(self, index: int, image: Tensor) -> None:
        """Keep an image, if it has room; the size must be the one that was announced."""
        if index >= self._kept:
            return
        slot = self._slot(index)
        if slot.shape != image.shape:
            raise ValueError(f"image {index} is {image.shape}, but {slot.shape} was reserved")
        slot.copy_(image)
        # Last: who sees this sees the pixels. Two processes that race write the same bytes.
        self._filled[index] = 1

    def take_hit_share(self) -> float:
        """Share of the requests since the last call that needed no decoding."""
        hits, misses = self._counts.sum(dim=0).tolist()
        self._counts.zero_()
        return float(hits / max(1, hits + misses))

    def _slot(self, index: int) -> Tensor:
        height, width = self._sizes[index].tolist()
        flat = self._pixels[int(self._starts[index]) : int(self._starts[index + 1])]
        return flat.view(height, width, 3).permute(2, 0, 1)


def _memory(size: int, *, shared: bool) -> Tensor:
    """(size,) uint8, not initialised."""
    if not shared:
        return torch.empty(size, dtype=torch.uint8)
    try:
        # What `share_memory_` does, without first filling as much memory that is not shared.
        storage = torch.UntypedStorage._new_shared(size, device="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UserError(
            f"no {size / 1e6:,.0f} MB of shared memory for decoded images ({error}): lower "
            f"data.decoded_cache or data.short_side, give the container more (docker run "
            f"--shm-size), or decode in the training process with data.num_workers=0"
        ) from None
    return torch.empty(0, dtype=torch.uint8).set_(storage)


class RequestedSamples(Dataset[tuple[SampleRequest, Example, int]]):
    """Decoded, transformed samples of one split, by request."""

    def __init__(
        self,
        reader: ShardReader,
        transform: Transform,
        seed: int,
        short_side: int | None = None,
        cache: DecodedCache | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            reader: Of the split.
            transform: The task's.
            seed: Makes the augmentation of two runs differ.
            short_side: Decoded images are shrunk to it, see `shrink`.
            cache: Keeps what was decoded and shrunk.
        """
        self.reader = reader
        self.transform = transform
        self.seed = seed
        self.cache = cache
        self._short_side = short_side

    def __len__(self) -> int:
        """Number of samples in the split."""
        return len(self.reader)

    def __getitem__(self, request: SampleRequest) -> tuple[SampleRequest, Example, int]:
        """The example, with its request and its seed."""
        return self.__getitems__([request])[0]

    def __getitems__(
        self, requests: Sequence[SampleRequest]
    ) -> list[tuple[SampleRequest, Example, int]]:
        """The examples of one part; what torch's DataLoader asks for.

        All are planned before the first is decoded: an image's pixels drive the interpreter out of
        the processor's caches, and the same Python takes several times as long after each.
        """
        found = [self._find(request.index) for request in requests]
        planned = [
            self._plan(request, annotations)
            for request, (_, annotations) in zip(requests, found, strict=True)
        ]
        return [
            (request, plan.example(self._pixels(request.index, *sources)), seed)
            for request, sources, (plan, seed) in zip(requests, found, planned, strict=True)
        ]

    def _find(self, index: int) -> tuple[Tensor | bytes, Annotations]:
        """The decoded image where it is kept, otherwise the encoded one; and its annotations."""
        kept = None if self.cache is None else self.cache.get(index)
        if kept is not None:
            return kept, self.reader.read_annotations(index)
        stored = self.reader.read(index)
        return stored.jpeg, stored.annotations

    def _plan(self, request: SampleRequest, annotations: Annotations) -> tuple[Plan, int]:
        """What to make of the image, and the sample's seed."""
        size = fit_short_side(annotations.height, annotations.width, self._short_side)
        rng = np.random.default_rng([self.seed, request.epoch, request.index])
        seed = int(rng.integers(2**62))
        return self.transform.plan(annotations, size, rng, request.padded), seed

    def _pixels(self, index: int, source: Tensor | bytes, annotations: Annotations) -> Tensor:
        if isinstance(source, Tensor):
            return source
        name = f"{self.reader.folder}: sample {annotations.key}"
        decoded = decode_image(source, name, self.reader.remedy)
        if decoded.shape[1:] != (annotations.height, annotations.width):
            raise UserError(
                f"{name}: {decoded.shape[2]} x {decoded.shape[1]} pixels where its record states "
                f"{annotations.width} x {annotations.height}: {self.reader.remedy}"
            )
        image = shrink(decoded, self._short_side)
        if self.cache is not None:
            self.cache.put(index, image)
        return image

    def collate(self, items: Sequence[tuple[SampleRequest, Example, int]]) -> Batch:
        """Samples of equal image size as a batch."""
        return collate(items)
