"""What each task makes of a stored sample: a view of its image, and its targets.

A transform looks at the annotations alone, not at pixels. It has a generator seeded for this sample
and epoch; all randomness comes from it, so an augmented sample is the same on any worker and any
rank. The image may be smaller than the stored one that its annotations speak of
(`data.short_side`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vocdist.data.geometry import (
    Padding,
    Region,
    View,
    centre_square,
    fitted_size,
    random_region,
    show,
    visible_shares,
)
from vocdist.shards.format import Annotations
from vocdist.voc.annotation import rows_to_xyxy


@dataclass(frozen=True, slots=True)
class Example:
    """One input (3, H, W) uint8 and its targets, each a tensor without a batch axis."""

    image: Tensor
    targets: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Plan:
    """All of an example but its pixels."""

    view: View
    targets: Mapping[str, Tensor]

    def example(self, image: Tensor) -> Example:
        """The example of a decoded image (3, H, W) uint8, of the size that was planned for."""
        return Example(show(image, self.view), self.targets)


class Transform(Protocol):
    """Says what becomes of a decoded image, given its annotations."""

    def plan(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        rng: np.random.Generator,
        padded: tuple[int, int] | None,
    ) -> Plan:
        """For an image decoded to `size`.

        `padded` is the (height, width) that the batch shares, None when inputs have one size.
        """
        ...


@dataclass(frozen=True)
class ClassifierTrainTransform:
    """A random crop, scaled to a square, maybe mirrored.

    Targets: `labels` (classes,) float32, those of the image or, with `min_visible`, those of the
    boxes that the crop shows by that share (`visible_shares`); with `color_jitter`, `color`
    (3,) float32, the drawn factors of brightness, contrast and saturation, for the device to apply.
    """

    classes: int
    size: int
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    flip: bool
    min_visible: float | None = None
    color_jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def plan(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Plan:
        """Draw the crop, then the mirroring, then the colors."""
        region = random_region(*size, self.crop_scale, self.crop_ratio, rng)
        mirrored = self.flip and rng.random() < 0.5
        targets = {"labels": self._labels(annotations, region, size)}
        if any(self.color_jitter):
            strength = np.array(self.color_jitter)
            factors = rng.uniform(1 - strength, 1 + strength)
            targets["color"] = torch.from_numpy(factors.astype(np.float32))
        return Plan(View(region, (self.size, self.size), mirrored), targets)

    def _labels(self, annotations: Annotations, region: Region, size: tuple[int, int]) -> Tensor:
        if self.min_visible is None:
            return _multi_hot(annotations, self.classes)
        boxes = rows_to_xyxy(annotations.boxes, annotations.width, annotations.height)
        scale = np.array([size[1] / annotations.width, size[0] / annotations.height] * 2)
        shares = visible_shares(boxes * scale, region)
        labels = torch.zeros(self.classes)
        # A box that lies outside is never seen, even where any share will do.
        labels[annotations.boxes[(shares >= self.min_visible) & (shares > 0), 0]] = 1.0
        return labels


@dataclass(frozen=True)
class ClassifierEvalTransform:
    """What an evaluation sees of an image.

    Targets: `labels` (classes,) float32, and `only_difficult` (classes,) bool, the classes among
    them whose every object is marked as difficult.
    Without a `padded` size: a square of side `size`, the centred one whose side is `share` of the
    image's short side, or the whole image squeezed when `share` is None. With one: the whole image,
    scaled to it.
    """

    classes: int
    size: int
    share: float | None

    def plan(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Plan:
        """Nothing is drawn."""
        square = self.share is not None and padded is None
        region = centre_square(*size, self.share or 1.0) if square else (0, 0, *size)
        view = View(region, padded or (self.size, self.size))
        labels = _multi_hot(annotations, self.classes)
        plain = torch.zeros(self.classes, dtype=torch.bool)
        plain[annotations.boxes[~annotations.difficult, 0]] = True
        return Plan(view, {"labels": labels, "only_difficult": (labels > 0) & ~plain})


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
    aspects: tuple[float, ...] | None = None

    def plan(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Plan:
        """Draw the mirroring."""
        stored = annotations.height, annotations.width
        mirrored = self.draws_mirror(rng)
        view = View((0, 0, *size), self.scaled_size(*stored), mirrored, padded)
        return Plan(view, self.targets(annotations, stored, mirrored=mirrored))

    def scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of a stored image once it is scaled, pixels."""
        bounds = self.short_side, self.long_side, self.snap
        return fitted_size(height, width, *bounds, self.aspects)

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


def scaled_box_sizes(
    annotations: Iterable[Annotations], padding: Padding, *, one_based: bool
) -> np.ndarray:
    """(width, height) of all boxes of images -> (B, 2) float32, pixels of the unpadded input."""
    sizes = [np.zeros((0, 2), dtype=np.float32)]
    for one in annotations:
        height, width = padding.sizes(np.array([[one.height, one.width]]))[0]
        xyxy = rows_to_xyxy(one.boxes, one.width, one.height, one_based=one_based)
        factors = np.array([width / one.width, height / one.height], dtype=np.float32)
        sizes.append((xyxy[:, 2:] - xyxy[:, :2]) * factors)
    return np.concatenate(sizes)
