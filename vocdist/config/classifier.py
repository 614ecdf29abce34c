"""The classifier's own sections, and the settings of its training."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from vocdist.config.training import RunConfig, TaskConfig
from vocdist.config.values import (
    STRICT,
    Aspects,
    BackboneName,
    Count,
    Fraction,
    FractionRange,
    NonNegativeFloat,
    PositiveRange,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassifierInputConfig:
    """Geometry and colours of the classifier's input.

    Attributes:
        size: Side of the square training input, pixels.
        crop_scale: Range of a training crop's area, as a share of the image's.
        crop_ratio: Range of its width / height.
        min_visible: A crop has the classes of those boxes that it shows: it and the box have at
            least this share of the smaller of their areas in common. Null: all classes of the
            image, whatever the crop shows.
        flip: Mirror half of the training images.
        color_jitter: Strength of random brightness, contrast and saturation: the factor of each is
            uniform in 1 ± strength.
        eval_view: What an evaluation sees: `centre` (the centred square of side `eval_crop`),
            `squeezed` (the whole image, in a square) or `frame` (the whole image in nearly its own
            proportions: its sides are rounded to multiples of 32, so that images share shapes).
        eval_aspects: Width / height of the few shapes of `frame`s, each image's the nearest, e.g.
            `[1.333, 0.75]`; null: each in nearly its own. Each shape takes a GPU seconds the first
            time; fewer stretch images more.
        eval_size: Side of that square, or short side of that frame, pixels; null: `size`.
        eval_crop: Side of the centred square, as a share of the image's short side.
        eval_flip: Score the mean of an image's logits and its mirror image's.
    """

    size: Count = 192
    crop_scale: FractionRange = (0.7, 1.0)
    crop_ratio: PositiveRange = (3 / 4, 4 / 3)
    min_visible: Fraction | None = None
    flip: bool = True
    color_jitter: tuple[Fraction, Fraction, Fraction] = (0.0, 0.0, 0.0)
    eval_view: Literal["centre", "squeezed", "frame"] = "centre"
    eval_aspects: Aspects | None = None
    eval_size: Count | None = None
    eval_crop: Fraction = 192 / 220
    eval_flip: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassifierModelConfig:
    """The classifier's network.

    Attributes:
        backbone: Name of a torchvision model.
        weights: `imagenet` (torchvision's download), `none`, or the path of a state dict.
        batch_norm_momentum: Overrides torchvision's (0.01 in MobileNetV3, slow for short runs).
        sync_batch_norm: Normalise by the samples of all processes, so that their number changes
            nothing; false: each process by its own, without waiting for the others in each layer.
            With `train.accumulate` each part of a step is normalised apart either way.
        dropout: Overrides the share of features that torchvision drops before the last layer.
    """

    backbone: BackboneName = "mobilenet_v3_small"
    weights: str = "imagenet"
    batch_norm_momentum: Fraction | None = None
    sync_batch_norm: bool = True
    dropout: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassifierLossConfig:
    """Binary cross entropy over the classes, and what may be changed about it.

    Attributes:
        pos_weight: Factor of a class's positives, r being its negatives / positives in the train
            split: `none` (1), `ratio` (r) or `sqrt` (the root of r).
        label_smoothing: Targets are moved this far from 0 and 1 towards one half.
        focus_positive: Exponent of a positive's distance from its target, a factor of its loss.
        focus_negative: The same for negatives; more than for positives: asymmetric loss (Ridnik
            et al. 2021, section 3.2).
        negative_margin: Negatives' probabilities are lowered by this first, down to 0.
    """

    pos_weight: Literal["none", "ratio", "sqrt"] = "ratio"
    label_smoothing: Fraction = 0.0
    focus_positive: NonNegativeFloat = 0.0
    focus_negative: NonNegativeFloat = 0.0
    negative_margin: Fraction = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassifierConfig(TaskConfig):
    """Settings of `scripts/train_classifier.py`."""

    run: RunConfig = RunConfig(dir=Path("runs/classifier"))
    task: Literal["classifier"] = "classifier"
    input: ClassifierInputConfig = ClassifierInputConfig()
    model: ClassifierModelConfig = ClassifierModelConfig()
    loss: ClassifierLossConfig = ClassifierLossConfig()
