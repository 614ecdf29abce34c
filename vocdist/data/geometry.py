"""Sizes, crops, frames and padding: where the pixels and boxes of an image go."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Region = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class View:
    """What of an image an input shows: a region, scaled, maybe mirrored, maybe padded.

    Attributes:
        region: In pixels of the image.
        size: (height, width) that the region is scaled to, pixels.
        mirrored: Left and right are exchanged.
        padded: (height, width) of the input, at whose top left it lies; None: nothing around it.
    """

    region: Region
    size: tuple[int, int]
    mirrored: bool = False
    padded: tuple[int, int] | None = None


# torchvision's RandomResizedCrop gives up after this many draws too.
_CROP_ATTEMPTS = 10


def random_region(
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Region:
    """Draw an Inception-style crop (Szegedy et al. 2015, section 6).

    The area is uniform in `scale` times the image's, log(width / height) uniform in `ratio`. When
    no draw fits, the largest centred region within `ratio` is taken, as torchvision does.
    """
    least, most = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        # What rng.uniform computes, in a third of its time: some draws fit no image.
        area = height * width * (scale[0] + (scale[1] - scale[0]) * rng.random())
        aspect = math.exp(least + (most - least) * rng.random())
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return int(top), int(left), h, w
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def centre_square(height: int, width: int, share: float) -> Region:
    """The centred square whose side is `share` of the short side."""
    side = max(1, round(min(height, width) * share))
    return (height - side) // 2, (width - side) // 2, side, side


def visible_shares(boxes: np.ndarray, region: Region) -> np.ndarray:
    """(N,) how much of each (N, 4) xyxy box a region of the same frame shows, of what it could.

    The common area, as a share of the smaller of the two: 1 for a box inside the region, and for a
    region inside a box, which shows nothing but that object.
    """
    top, left, height, width = region
    first = np.maximum(boxes[:, :2], (left, top))
    last = np.minimum(boxes[:, 2:], (left + width, top + height))
    common = np.maximum(last - first, 0).prod(axis=1)
    most = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), height * width)
    shares: np.ndarray = common / np.maximum(most, 1e-9)
    return shares


def show(image: Tensor, view: View) -> Tensor:
    """The input (3, h, w) uint8 that a view makes of an image (3, H, W) uint8."""
    scaled = crop_resize(image, view.region, view.size)
    if view.mirrored:
        scaled = scaled.flip(2)
    return scaled if view.padded is None else pad_to(scaled, view.padded)


def crop_resize(image: Tensor, region: Region, size: tuple[int, int]) -> Tensor:
    """Cut a region of a (3, H, W) uint8 image and scale it once, antialiased, to `size` (h, w).

    Quick where the image is NHWC in memory, as decoders leave it; then the result is so too.
    """
    top, left, height, width = region
    cut = image[:, top : top + height, left : left + width]
    if (height, width) == size:
        return cut
    # The batch axis is put before NHWC's three: put before (3, h, w), its stride would hide the
    # layout from torch, which then rearranges the pixels to NCHW and back, for half as much again.
    batch = cut.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode="bilinear", antialias=True)[0]


def shrink(image: Tensor, short_side: int | None) -> Tensor:
    """Scale a (3, H, W) uint8 image down to a short side; smaller ones stay, and all with None."""
    if short_side is None:
        return image
    height, width = image.shape[1:]
    size = fit_short_side(height, width, short_side)
    return crop_resize(image, (0, 0, height, width), size)


def fit_short_side(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) of what `shrink` returns, pixels."""
    if short_side is None or min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def fitted_size(
    height: int,
    width: int,
    short_side: int,
    long_side: int,
    snap: int = 1,
    aspects: Sequence[float] | None = None,
) -> tuple[int, int]:
    """(height, width) after scaling the short side to `short_side`, the long to at most its bound.

    Faster R-CNN's rule (Ren et al. 2015, section 3.3). Each side is rounded to the nearest multiple
    of `snap` pixels, which stretches the image a little and leaves nothing to pad. With `aspects`,
    widths / heights, the image counts as one of the nearest of these.
    """
    sides: tuple[float, float] = height, width
    if aspects:
        ratio = math.log(width / height)
        sides = 1.0, min(aspects, key=lambda aspect: abs(math.log(aspect) - ratio))
    scale = min(short_side / min(sides), long_side / max(sides))
    rows, columns = (max(1, round(side * scale / snap)) * snap for side in sides)
    return rows, columns


def distinct_sizes(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) int64 rows -> the different ones (D, 2), and (N,) which of them each is.

    Cameras know few sizes, so that what is computed for each of them is computed seldom.
    """
    # As one number: rows take numpy's sorting many times as long.
    width = int(sizes[:, 1].max(initial=0)) + 1
    codes, which = np.unique(sizes[:, 0] * width + sizes[:, 1], return_inverse=True)
    return np.stack([codes // width, codes % width], axis=1), which


def padded_size(sizes: np.ndarray, multiple: int) -> tuple[int, int]:
    """Smallest (height, width), both multiples of `multiple`, that holds all (N, 2) `sizes`."""
    height, width = (-(-sizes.max(axis=0) // multiple) * multiple).tolist()
    return height, width


def pad_to(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Place a (3, H, W) image at the top left of a zero (3, h, w) canvas, NHWC in memory."""
    canvas = torch.zeros((*size, image.shape[0]), dtype=image.dtype).permute(2, 0, 1)
    canvas[:, : image.shape[1], : image.shape[2]] = image
    return canvas


@dataclass(frozen=True)
class Padding:
    """How images of varying size share a batch.

    Attributes:
        short_side: See `fitted_size`, pixels.
        long_side: See `fitted_size`, pixels.
        multiple: The padded sides are multiples of this, pixels.
        snap: Scale to multiples of `multiple` instead of padding to them; then a batch holds images
            of one size, otherwise of one orientation.
        aspects: See `fitted_size`; only with `snap`.
    """

    short_side: int
    long_side: int
    multiple: int
    snap: bool = False
    aspects: tuple[float, ...] | None = None

    def sizes(self, stored: np.ndarray) -> np.ndarray:
        """(N, 2) stored (height, width) -> (N, 2) scaled ones, pixels."""
        bounds = self.short_side, self.long_side, self.multiple if self.snap else 1
        distinct, which = distinct_sizes(stored)
        scaled = [
            fitted_size(height, width, *bounds, self.aspects) for height, width in distinct.tolist()
        ]
        sizes: np.ndarray = np.asarray(scaled, dtype=np.int64).reshape(-1, 2)[which]
        return sizes

    def groups(self, sizes: np.ndarray) -> np.ndarray:
        """(N, 2) scaled sizes -> (N,) ids: images of one id may share a batch."""
        if self.snap:
            _, which = distinct_sizes(sizes)
            return which
        return (sizes[:, 0] > sizes[:, 1]).astype(int)

    def padded(self, sizes: np.ndarray) -> tuple[int, int]:
        """(N, 2) scaled sizes of a batch -> the (height, width) that it shares, pixels."""
        return padded_size(sizes, self.multiple)


# How `resize` scales, in the words of a model card.
SCALING_WORDS = "(bilinear, antialiased, in uint8; halves are rounded to even)"


def fitting_words(
    short_side: int, long_side: int, multiple: int, aspects: Sequence[float] | None = None
) -> str:
    """The sentences of a model card for `fitted_size`."""
    unit = f"multiple of {multiple} pixels, at least to {multiple}" if multiple > 1 else "pixel"
    sides, before = "the stored sides", ""
    if aspects:
        # All digits: which of two is nearer may hang on the last.
        shapes = ", ".join(f"(1, {aspect!r})" for aspect in aspects)
        sides = "these sides"
        before = (
            f"Of the (height, width) {shapes} take that whose logarithm of width / height is "
            f"nearest to the image's. "
        )
    return (
        f"{before}Scale it to {sides} times min({short_side} / short side, {long_side} / long "
        f"side), each rounded to the nearest {unit} {SCALING_WORDS}."
    )
