"""The Region Proposal Network's own sections, and the settings of its training."""

from pathlib import Path
from typing import Literal

from pydantic.dataclasses import dataclass

from vocdist.config.training import RunConfig, TaskConfig
from vocdist.config.values import (
    STRICT,
    Aspects,
    BackboneName,
    Count,
    Folder,
    Fraction,
    NonNegativeFloat,
    Positive,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RpnInputConfig:
    """Geometry of the RPN's input.

    Attributes:
        short_side: Length that the short side is resized to, pixels.
        long_side: Upper bound of the long side, pixels; it wins over `short_side`.
        pad_multiple: Height and width of a batch are padded up to a multiple of this, pixels.
        snap: Scale each side to the nearest multiple of `pad_multiple` instead: nothing is padded,
            the image is stretched by a few percent, and a batch holds images of one size.
        aspects: Width / height of the few shapes that images are scaled to, each to the nearest,
            rounded to multiples of `pad_multiple`: e.g. `[1.333, 0.75]`. Null: to its own. Each
            shape takes a GPU seconds the first time; fewer stretch images more. With it nothing is
            padded, as with `snap`.
        flip: Mirror half of the training images, boxes included.
        one_based: Boxes' corners count pixels from 1, as VOC's do; false takes them as they are,
            as the notebook did and some annotation tools write them.
    """

    short_side: Count = 800
    long_side: Count = 1333
    pad_multiple: Count = 32
    snap: bool = False
    aspects: Aspects | None = None
    flip: bool = False
    one_based: bool = True

    @property
    def snaps(self) -> bool:
        """Whether images are scaled to multiples of `pad_multiple`, and nothing is padded."""
        return self.snap or self.aspects is not None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FeaturesConfig:
    """The frozen backbone's features: computed in every epoch, or once and kept.

    Attributes:
        cache: Keep them, of every image and (with `input.flip`) of its mirror image, rounded to
            fp16; needs `input.snap`. Epochs then cost no more than the head. `auto`: with
            `input.snap`, except on CUDA, which computes them faster than a disk gives them back.
        folder: Where they are kept, for all runs; remove it whenever no run is going.
        max_gib: What the folder may hold; files used longest ago make room for new ones, but none
            that a run is using.
    """

    cache: bool | Literal["auto"] = False
    folder: Folder = Path("cache/features")
    max_gib: Positive = 20.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RpnModelConfig:
    """The RPN's frozen backbone and its head.

    Attributes:
        classifier: Where the features come from: a classifier run, a state dict's path, `none` for
            `backbone` with `weights`, or `auto`: the run in `runs/classifier` where there is one,
            else ResNet-18 with ImageNet weights.
        backbone: The network of a plain state dict, or of `classifier=none`.
        weights: As in the classifier; used with `classifier=none`.
        hidden: Channels of the head's 3×3 convolution.
        strides: Feature levels, by their stride in pixels, finest first.
        scales: Anchor sides (square root of the area, pixels) of each level.
        ratios: Anchor height / width.
    """

    classifier: str = "auto"
    backbone: BackboneName = "mobilenet_v3_small"
    weights: str = "imagenet"
    hidden: Count = 256
    strides: tuple[Literal[8, 16, 32], ...] = (32,)
    scales: tuple[tuple[Positive, ...], ...] = ((32.0, 64.0, 128.0),)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MatchingConfig:
    """Which anchors train the head, and as what (Faster R-CNN, section 3.1.2).

    Attributes:
        positive_iou: An anchor at or above this IoU with a box is positive.
        negative_iou: An anchor below this IoU with every box is negative.
        best_anchor_min_iou: The best anchors of a box are positive too, from this IoU on; null:
            never. 0 is the notebook's: a box that touches no anchor makes all of them positive.
        max_total: Anchors that an image's loss sees; null: only the two bounds below.
        max_positives: Positives among them.
        max_negatives: Negatives among them.
        box_normalizer: The box loss of an image is divided by its positives' coordinates
            (`positives`) or by its sampled anchors (`sampled`, as in torchvision).
    """

    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    best_anchor_min_iou: Fraction | None = 1e-6
    max_total: Count | None = 256
    max_positives: Count = 128
    max_negatives: Count = 256
    box_normalizer: Literal["positives", "sampled"] = "positives"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProposalsConfig:
    """How the head's output becomes proposals.

    Attributes:
        pre_nms_top_k: Best anchors of each level that are decoded.
        nms_threshold: IoU above which the lower-scored of two boxes is dropped.
        min_size: Shortest side of a proposal, pixels of the resized image.
        score_threshold: Objectness below which nothing is proposed; null for none.
    """

    pre_nms_top_k: Count = 1200
    nms_threshold: Fraction = 0.7
    min_size: NonNegativeFloat = 16.0
    score_threshold: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RpnConfig(TaskConfig):
    """Settings of `scripts/train_rpn.py`."""

    run: RunConfig = RunConfig(dir=Path("runs/rpn"))
    task: Literal["rpn"] = "rpn"
    input: RpnInputConfig = RpnInputConfig()
    features: FeaturesConfig = FeaturesConfig()
    model: RpnModelConfig = RpnModelConfig()
    matching: MatchingConfig = MatchingConfig()
    proposals: ProposalsConfig = ProposalsConfig()
