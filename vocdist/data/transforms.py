"""What each task makes of a stored sample: an input image and its targets.

A transform is called with a generator seeded for this sample and epoch; all randomness comes from
it, so an augmented sample is the same on any worker and any rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vocdist.data.boxes import rows_to_xyxy
from vocdist.data.geometry import (
    centre_square,
    crop_resize,
    fitted_size,
    pad_to,
    random_region,
)
from vocdist.shards.reader import Annotations


@dataclass(frozen=True, slots=True)
class Example:
    """One input (3, H, W) uint8 and its targets, each a tensor without a batch axis."""

    image: Tensor
    targets: Mapping[str, Tensor]


class Transform(Protocol):
    """Turns a decoded image and its annotations into an example."""

    def __call__(
        self,
        image: Tensor,
        annotations: Annotations,
        rng: np.random.Generator,
        padded: tuple[int, int] | None,
    ) -> Example:
        """`padded` is the (height, width) that the batch shares, None when sizes are fixed."""
        ...


@dataclass(frozen=True)
class ClassifierTrainTransform:
    """A random crop, scaled to a square, maybe mirrored; target `labels` (classes,) float32."""

    classes: int
    size: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip: bool

    def __call__(
        self,
        image: Tensor,
        annotations: Annotations,
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Example:
        """Cut, scale and mirror."""
        height, width = image.shape[1:]
        region = random_region(height, width, self.crop_scale, self.crop_ratio, rng)
        scaled = crop_resize(image, region, (self.size, self.size))
        if self.flip and rng.random() < 0.5:
            scaled = scaled.flip(2)
        return Example(scaled, {"labels": _multi_hot(annotations, self.classes)})


@dataclass(frozen=True)
class ClassifierEvalTransform:
    """A centred square, or the whole image squeezed into one; target `labels` (classes,) float32.

    `share` is the square's part of the short side, None for the whole image.
    """

    classes: int
    size: int
    share: float | None

    def __call__(
        self,
        image: Tensor,
        annotations: Annotations,
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Example:
        """Cut and scale."""
        height, width = image.shape[1:]
        whole = (0, 0, height, width)
        region = whole if self.share is None else centre_square(height, width, self.share)
        scaled = crop_resize(image, region, (self.size, self.size))
        return Example(scaled, {"labels": _multi_hot(annotations, self.classes)})


@dataclass(frozen=True)
class RpnTransform:
    """The whole image, scaled and padded, with its boxes.

    Targets: `boxes` (N, 4) float32 xyxy in pixels of the scaled image; `difficult` (N,) bool;
    `image_size` (2,) int64 (height, width) of the scaled image inside the padding; `stored_size`
    (2,) int64 of the stored one.
    """

    short_side: int
    long_side: int
    flip: bool = False
    one_based: bool = True
    snap: int = 1

    def __call__(
        self,
        image: Tensor,
        annotations: Annotations,
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Example:
        """Scale, mirror and pad."""
        stored = image.shape[1], image.shape[2]
        size = self.scaled_size(*stored)
        scaled = crop_resize(image, (0, 0, *stored), size)
        mirrored = self.draws_mirror(rng)
        if mirrored:
            scaled = scaled.flip(2)
        return Example(
            image=scaled if padded is None else pad_to(scaled, padded),
            targets=self.targets(annotations, stored, mirrored=mirrored),
        )

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a stored image once it is scaled, pixels."""
        return fitted_size(height, width, self.short_side, self.long_side, self.snap)

    def draws_mirror(self, rng: np.random.Generator) -> bool:
        """Whether a sample is mirrored: the one thing that is drawn, and only with `flip`."""
        return self.flip and bool(rng.random() < 0.5)

    def targets(
        self, annotations: Annotations, stored: tuple[int, int], *, mirrored: bool
    ) -> Mapping[str, Tensor]:
        """The targets of an image whose stored size is (height, width)."""
        height, width = self.scaled_size(*stored)
        boxes = torch.from_numpy(
            rows_to_xyxy(annotations.boxes, stored[1], stored[0], one_based=self.one_based)
        )
        # The two factors differ by the rounding of each side.
        boxes = boxes * torch.tensor([width / stored[1], height / stored[0]] * 2)
        if mirrored:
            boxes = torch.stack(
                [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1
            )
        return {
            "boxes": boxes,
            "difficult": torch.from_numpy(annotations.difficult),
            "image_size": torch.tensor([height, width]),
            "stored_size": torch.tensor(stored),
        }


def _multi_hot(annotations: Annotations, classes: int) -> Tensor:
    return torch.from_numpy(annotations.multi_hot(classes)).float()
