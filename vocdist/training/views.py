"""How training and evaluation see an image: transform and shape, from `config.input`."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vocdist.config import RpnConfig, TaskConfig
from vocdist.data.geometry import Padding, shrink
from vocdist.data.transforms import (
    ClassifierEvalTransform,
    ClassifierTrainTransform,
    Example,
    RpnTransform,
    Transform,
)
from vocdist.shards.record import Annotations

# Of the classifier's whole frames: sides are multiples of this, and the long one at most so many
# short ones.
FRAME_MULTIPLE = 32
FRAME_ASPECT = 3


def build_transform(config: TaskConfig, classes: int, *, training: bool) -> Transform:
    """From stored pixels to the network's input and its targets, for so many classes."""
    if isinstance(config, RpnConfig):
        box = config.input
        flip = training and box.flip
        snap = box.pad_multiple if box.snap else 1
        return RpnTransform(box.short_side, box.long_side, flip, box.one_based, snap)
    view = config.input
    if not training:
        size = view.eval_size or view.size
        share = view.eval_crop if view.eval_view == "centre" else None
        return ClassifierEvalTransform(classes, size, share)
    return ClassifierTrainTransform(
        classes,
        view.size,
        view.crop_scale,
        view.crop_ratio,
        view.flip,
        view.min_visible,
        view.color_jitter,
    )


def build_padding(config: TaskConfig, *, training: bool) -> Padding | None:
    """The shapes of batches whose images vary in size; None where all inputs have one."""
    if isinstance(config, RpnConfig):
        box = config.input
        return Padding(box.short_side, box.long_side, box.pad_multiple, box.snap)
    if training or config.input.eval_view != "frame":
        return None
    # Not padded but stretched a little: padding would be averaged into the pooled features.
    short_side = config.input.eval_size or config.input.size
    return Padding(short_side, FRAME_ASPECT * short_side, FRAME_MULTIPLE, snap=True)


@dataclass(frozen=True)
class EvaluationView:
    """How an evaluation sees an image.

    Attributes:
        transform: From stored pixels to the network's input.
        short_side: What `shrink` does to stored pixels first.
        padding: For images of varying size; None where all inputs have one.
    """

    transform: Transform
    short_side: int | None
    padding: Padding | None

    def shape(self, stored_hw: tuple[int, int]) -> tuple[int, int] | None:
        """(height, width) of the input that an image of this size becomes; None: always one."""
        if self.padding is None:
            return None
        return self.padding.padded(self.padding.sizes(np.array([stored_hw])))

    def example(
        self, pixels: Tensor, stored: Annotations, shape: tuple[int, int] | None
    ) -> Example:
        """The input of stored pixels (3, H, W) uint8, for a batch of this shape."""
        # Evaluation draws nothing from the generator; the transform's signature wants one.
        rng = np.random.default_rng(0)
        image = shrink(pixels, self.short_side)
        height, width = image.shape[1:]
        return self.transform.plan(stored, (height, width), rng, shape).example(image)


def evaluation_view(config: TaskConfig, classes: int) -> EvaluationView:
    """What the loader of an evaluation does to images, for images that come from elsewhere."""
    return EvaluationView(
        build_transform(config, classes, training=False),
        config.data.short_side,
        build_padding(config, training=False),
    )
