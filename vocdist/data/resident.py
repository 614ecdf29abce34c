"""Images that stay on a device, decoded once; crops and antialiased resizing there.

A resize along one axis is a matrix that is known before the pixels: `out = W_y · image · W_xᵀ`,
where crop, mirroring, antialiasing filter and padding are all in the two matrices. They are made on
the device from the views that the CPU's transforms plan (`transforms.py`), so crops and labels are
those of images that are loaded; pixels differ by the rounding of these to whole grey levels.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vocdist.data.batch import Batch, SampleRequest, assemble
from vocdist.data.dataset import RequestedSamples
from vocdist.data.geometry import View, fit_short_side
from vocdist.data.transforms import Example, Plan
from vocdist.shards.format import Annotations
from vocdist.shards.reader import ShardReader

# Of a device's free memory, what images may take: the rest is for the network's activations.
DEVICE_SHARE = 0.6

# Columns of a view as numbers: image, region, size that it is scaled to, whether it is mirrored.
VIEW_COLUMNS = ("index", "top", "left", "height", "width", "out_height", "out_width", "mirrored")


class Room(NamedTuple):
    """Where images could stay: the kind of a device, and bytes that are free on it."""

    device: str
    free: int


def missing_room(needed: int, room: Room) -> str:
    """In words why images of so many bytes do not fit; empty: they do."""
    if needed <= int(room.free * DEVICE_SHARE):
        return ""
    return (
        f"decoded images take {needed / 1e9:.1f} GB and {room.device} has {room.free / 1e9:.1f} GB "
        f"free, of which they may take {DEVICE_SHARE:.0%}: lower data.short_side"
    )


def stored_shape(reader: ShardReader, short_side: int | None) -> tuple[int, int, int, int]:
    """(N, H, 3, W) of a split's images in an `ImageStore`, all in the space of the largest.

    Rows begin at multiples of 16 bytes, as fast copies and products of matrices ask for.
    """
    sizes = np.array([fit_short_side(h, w, short_side) for h, w in reader.image_sizes.tolist()])
    height, width = sizes.max(axis=0).tolist()
    return len(sizes), height, 3, -(-width // 16) * 16


class ImageStore:
    """The decoded images of a split on one device.

    Attributes:
        pixels: (N, H, 3, W) uint8, each at the top left of its (H, W). In this order of axes both
            products are plain ones, and nothing is rearranged between them.
    """

    def __init__(self, shape: tuple[int, int, int, int], device: torch.device) -> None:
        """Take the memory."""
        self.pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        # uint8 is exact in fp16, sums are float32, and tensor cores are fast in no other type.
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32

    def shown(self, views: Tensor, size: tuple[int, int]) -> Tensor:
        """Rows (B, 8) of `VIEW_COLUMNS` -> (B, 3, h, w) float32 in grey levels, zero where padded.

        Nothing here waits for the device.
        """
        (height, width), (_, rows, _, columns) = size, self.pixels.shape
        index, top, left, region_h, region_w, out_h, out_w, mirrored = views.unbind(1)
        upright = torch.zeros_like(mirrored)
        down = resize_matrix(top, region_h, out_h, upright, out=height, extent=rows)
        across = resize_matrix(left, region_w, out_w, mirrored, out=width, extent=columns)
        images = self.pixels.index_select(0, index).to(self._dtype)
        count = len(index)
        # (B, H·3, W) · (B, W, w), then (B, h, H) · (B, H, 3·w).
        narrow = images.view(count, rows * 3, columns) @ across.to(self._dtype).transpose(1, 2)
        scaled = down.to(self._dtype) @ narrow.view(count, rows, 3 * width)
        return scaled.view(count, height, 3, width).transpose(1, 2).float()


def resize_matrix(
    start: Tensor, length: Tensor, out_length: Tensor, mirrored: Tensor, *, out: int, extent: int
) -> Tensor:
    """Matrices (B, out, extent) float32 that cut, scale and maybe mirror one axis of B images.

    Pixels `start` to `start + length` (B,) int64 become the first `out_length` (B,) of `out`; the
    rows behind are zero. The filter is that of torch's `interpolate(mode="bilinear",
    antialias=True)`: a triangle as wide as an output pixel is, in input pixels, and at least 1 to
    each side, cut at the region's border and normalised.
    """
    device = start.device
    to, source = torch.arange(out, device=device), torch.arange(extent, device=device)
    start, length, out_length, mirrored = (
        column[:, None] for column in (start, length, out_length, mirrored)
    )
    place = torch.where(mirrored > 0, out_length - 1 - to, to)
    scale = length / out_length
    centre = (place + 0.5) * scale
    distance = (source - start + 0.5)[:, None, :] - centre[:, :, None]
    weights = (1 - distance.abs() / scale.clamp(min=1)[:, :, None]).clamp(min=0)
    inside = (source >= start) & (source < start + length)
    weights = weights * inside[:, None, :] * (to < out_length)[:, :, None]
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def view_row(index: int, view: View) -> list[int]:
    """A view of the image with an index, as a row of `VIEW_COLUMNS`."""
    return [index, *view.region, *view.size, int(view.mirrored)]


class PlannedSamples(RequestedSamples):
    """What `RequestedSamples` gives, with rows of `VIEW_COLUMNS` in the place of pixels."""

    def __getitems__(
        self, requests: Sequence[SampleRequest]
    ) -> list[tuple[SampleRequest, Example, int]]:
        """The examples of one part; `image` is a row (8,) int64."""
        planned = [
            (request, *self._plan(request, self.reader.read_annotations(request.index)))
            for request in requests
        ]
        return [
            (request, Example(self._row(request, plan), plan.targets), seed)
            for request, plan, seed in planned
        ]

    def collate(self, items: Sequence[tuple[SampleRequest, Example, int]]) -> Batch:
        """A batch of rows (B, 8); its `size` is that of the images that they show."""
        requests, examples, seeds = zip(*items, strict=True)
        rows = torch.stack([example.image for example in examples])
        size = requests[0].padded or (int(rows[0, 5]), int(rows[0, 6]))
        return assemble((rows,), size, [e.targets for e in examples], requests, seeds)

    def _row(self, request: SampleRequest, plan: Plan) -> Tensor:
        return torch.tensor(view_row(request.index, plan.view))


class _Whole:
    """The transform that leaves images as they are."""

    def plan(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Plan:
        """Nothing is drawn."""
        return Plan(View((0, 0, *size), size), {})


class WholeImages(RequestedSamples):
    """Decoded images as an `ImageStore` keeps them: batches of (B, H, 3, W) uint8."""

    def __init__(self, reader: ShardReader, short_side: int | None) -> None:
        """Look up the size of the largest."""
        super().__init__(reader, _Whole(), 0, short_side)
        _, self._height, _, self._width = stored_shape(reader, short_side)

    def collate(self, items: Sequence[tuple[SampleRequest, Example, int]]) -> Batch:
        """Each image at the top left of the space that all have."""
        requests, examples, seeds = zip(*items, strict=True)
        stacked = torch.zeros((len(items), self._height, 3, self._width), dtype=torch.uint8)
        for space, example in zip(stacked, examples, strict=True):
            height, width = example.image.shape[1:]
            space[:height, :, :width] = example.image.transpose(0, 1)
        size = self._height, self._width
        return assemble((stacked,), size, [e.targets for e in examples], requests, seeds)


def materialised(batch: Batch, store: ImageStore) -> Batch:
    """A batch of views as one of images (B, 3, H, W) float32, on the store's device."""
    return replace(batch, inputs=(store.shown(batch.inputs[0], batch.size),))
