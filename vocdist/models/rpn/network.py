"""The Region Proposal Network: head, targets, losses, proposals; `ProposalModel` adds the backbone.

`RegionProposalNetwork` never sees the backbone, so features may come from a cache as well. Under
DDP only `forward` goes through the wrapper; `losses` and `propose` work on its output.
Source: Ren et al. 2015, Faster R-CNN, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from vocdist.models.backbone import FrozenBackbone
from vocdist.models.layers import ExportGraph, ImageNetPixels, random_keys
from vocdist.models.rpn.anchors import (
    cell_anchors,
    centres_inside,
    clip_to_images,
    decode,
    grid_anchors,
    level_grid,
)
from vocdist.models.rpn.assignment import ANY_OVERLAP, match_anchors, sample_anchors
from vocdist.models.rpn.losses import BoxNormalizer, RpnLosses, rpn_losses, target_deltas
from vocdist.models.rpn.proposals import Proposals, select_proposals

PRIOR = 0.01
FeatureShapes = list[tuple[int, int]]


class HeadOutput(NamedTuple):
    """What the head says about every anchor: objectness (B, A) logits, deltas (B, A, 4)."""

    objectness: Tensor
    deltas: Tensor


class RpnHead(nn.Module):
    """Feature maps of one channel count -> objectness and box offsets in anchor order."""

    def __init__(self, in_channels: int, num_anchors: int, hidden: int = 256) -> None:
        """Build for `num_anchors` anchors per cell; they start at objectness `PRIOR`."""
        super().__init__()
        self.conv = nn.Conv2d(in_channels, hidden, kernel_size=3, padding=1)
        self.objectness = nn.Conv2d(hidden, num_anchors, kernel_size=1)
        self.deltas = nn.Conv2d(hidden, 4 * num_anchors, kernel_size=1)
        self._init_weights()

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Maps (B, C, H_l, W_l), finest to coarsest as the anchors -> one row per anchor."""
        hidden = [torch.relu(self.conv(feature)) for feature in features]
        objectness = [_anchor_order(self.objectness(level), 1) for level in hidden]
        deltas = [_anchor_order(self.deltas(level), 4) for level in hidden]
        return HeadOutput(torch.cat(objectness, dim=1).squeeze(-1), torch.cat(deltas, dim=1))

    def _init_weights(self) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)
        # Nearly all anchors are background: start by saying so, or the first steps are spent on it.
        assert self.objectness.bias is not None
        nn.init.constant_(self.objectness.bias, -math.log((1 - PRIOR) / PRIOR))


def _anchor_order(output: Tensor, width: int) -> Tensor:
    """(B, K * width, H, W) -> (B, H * W * K, width)."""
    return output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, width)


@dataclass(frozen=True, kw_only=True)
class AnchorRule:
    """Anchor scales in pixels for each feature level, and the ratios (height / width) of all."""

    scales_per_level: tuple[tuple[float, ...], ...] = ((32.0, 64.0, 128.0),)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)

    def __post_init__(self) -> None:
        """Refuse what one shared head cannot serve."""
        if len({len(scales) for scales in self.scales_per_level}) != 1 or not self.per_cell:
            raise ValueError(
                f"anchor scales {self.scales_per_level} with ratios {self.ratios}: one head serves "
                "all levels, so give every level the same number of scales, at least one"
            )

    @property
    def per_cell(self) -> int:
        """K, the anchors of one cell."""
        return len(self.scales_per_level[0]) * len(self.ratios)


@dataclass(frozen=True, kw_only=True)
class MatchingRule:
    """When an anchor is an object: see `match_anchors`; `best_anchor_min_iou=0.0` = notebook."""

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    best_anchor_min_iou: float | None = ANY_OVERLAP

    def __post_init__(self) -> None:
        """Refuse thresholds that cross."""
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}: "
                "lower it, anchors between the two are ignored"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingRule:
    """Anchors that an image's loss sees: see `sample_anchors`; 256, 256, None = notebook."""

    max_positives: int = 128
    max_negatives: int = 256
    max_total: int | None = 256


@dataclass(frozen=True, kw_only=True)
class LossRule:
    """How a loss is measured: see `rpn_losses`. The defaults are the notebook's."""

    beta: float = 1 / 9
    box_normalizer: BoxNormalizer = "positives"


@dataclass(frozen=True, kw_only=True)
class ProposalRule:
    """What is proposed: see `select_proposals`; `score_threshold=0.7` = notebook."""

    pre_nms_top_k: int = 1200
    post_nms_top_k: int = 200
    nms_threshold: float = 0.7
    min_size: float = 16.0
    score_threshold: float | None = None


class BatchAnchors(NamedTuple):
    """A batch's anchors, clipped to each image (B, A, 4), and which lie on it, inside (B, A)."""

    boxes: Tensor
    inside: Tensor


class AnchorTargets(NamedTuple):
    """What a step learns: labels (B, A) in POSITIVE / NEGATIVE / IGNORE, deltas (B, A, 4)."""

    labels: Tensor
    deltas: Tensor


class RegionProposalNetwork(nn.Module):
    """Batched RPN; no method used in training waits for the device or loops over images."""

    def __init__(
        self,
        in_channels: int,
        anchors: AnchorRule,
        *,
        hidden: int = 256,
        matching: MatchingRule | None = None,
        sampling: SamplingRule | None = None,
        loss: LossRule | None = None,
        proposals: ProposalRule | None = None,
    ) -> None:
        """Build a head for feature maps of `in_channels`; a rule left out takes its defaults."""
        super().__init__()
        self.head = RpnHead(in_channels, anchors.per_cell, hidden)
        self.anchor_rule = anchors
        self.matching = matching or MatchingRule()
        self.sampling = sampling or SamplingRule()
        self.loss_rule = loss or LossRule()
        self.proposal_rule = proposals or ProposalRule()

    def forward(self, features: Sequence[Tensor]) -> HeadOutput:
        """Feature maps (B, C, H_l, W_l) of L levels -> objectness and offsets of all A anchors."""
        output: HeadOutput = self.head(features)
        return output

    def losses(
        self,
        output: HeadOutput,
        feature_shapes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        image_sizes: Tensor,
        gt_boxes: Tensor,
        gt_mask: Tensor,
        seeds: Tensor,
    ) -> RpnLosses:
        """Losses per image.

        `feature_shapes` and `padded_size` are (height, width) in cells and pixels, `image_sizes`
        (B, 2) each image's before padding. `gt_boxes` (B, G, 4) with `gt_mask` (B, G); `seeds`
        (B,) int64 decide which anchors are sampled.
        """
        anchors = self.batch_anchors(feature_shapes, padded_size, image_sizes)
        targets = self.targets(anchors, gt_boxes, gt_mask, seeds)
        return rpn_losses(
            output.objectness,
            output.deltas,
            targets.labels,
            targets.deltas,
            beta=self.loss_rule.beta,
            box_normalizer=self.loss_rule.box_normalizer,
        )

    def propose(
        self,
        output: HeadOutput,
        feature_shapes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        image_sizes: Tensor,
        rule: ProposalRule | None = None,
    ) -> list[Proposals]:
        """Each image's best boxes, in the frame of the padded input, by `rule` or the model's."""
        rule = rule or self.proposal_rule
        anchors = self.batch_anchors(feature_shapes, padded_size, image_sizes)
        return select_proposals(
            output.objectness,
            output.deltas,
            anchors.boxes,
            image_sizes,
            [height * width * self.anchor_rule.per_cell for height, width in feature_shapes],
            valid=anchors.inside,
            pre_nms_top_k=rule.pre_nms_top_k,
            post_nms_top_k=rule.post_nms_top_k,
            nms_threshold=rule.nms_threshold,
            min_size=rule.min_size,
            score_threshold=rule.score_threshold,
        )

    def batch_anchors(
        self,
        feature_shapes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        image_sizes: Tensor,
    ) -> BatchAnchors:
        """The grid's anchors for each image: clipped to it, and which are centred on it."""
        rule = self.anchor_rule
        grid = grid_anchors(
            feature_shapes, padded_size, rule.scales_per_level, rule.ratios, image_sizes.device
        )
        return BatchAnchors(clip_to_images(grid, image_sizes), centres_inside(grid, image_sizes))

    @torch.no_grad()
    def targets(
        self, anchors: BatchAnchors, gt_boxes: Tensor, gt_mask: Tensor, seeds: Tensor
    ) -> AnchorTargets:
        """Label every anchor, sample those that count, and say where each should go."""
        matching, sampling = self.matching, self.sampling
        labels, matched_gt = match_anchors(
            anchors.boxes,
            gt_boxes,
            gt_mask,
            anchors.inside,
            positive_iou=matching.positive_iou,
            negative_iou=matching.negative_iou,
            best_anchor_min_iou=matching.best_anchor_min_iou,
        )
        labels = sample_anchors(
            labels,
            random_keys(seeds, labels.shape[1]),
            max_positives=sampling.max_positives,
            max_negatives=sampling.max_negatives,
            max_total=sampling.max_total,
        )
        return AnchorTargets(labels, target_deltas(anchors.boxes, gt_boxes, matched_gt))


class ProposalModel(nn.Module):
    """From uint8 images to the head's output: pixels, frozen backbone, merged levels, RPN head."""

    def __init__(self, backbone: FrozenBackbone, rpn: RegionProposalNetwork, merged: int) -> None:
        """Several levels are merged top-down to `merged` channels each; one is taken as it is."""
        super().__init__()
        self.pixels = ImageNetPixels()
        self.backbone = backbone
        many = len(backbone.strides) > 1
        self.merge = FeaturePyramidNetwork(list(backbone.channels), merged) if many else None
        self.rpn = rpn

    def forward(
        self, inputs: Sequence[Tensor], image_sizes: Tensor
    ) -> tuple[HeadOutput, FeatureShapes]:
        """A batch's inputs, (B, 2) image sizes before padding -> output, (h, w) of the levels."""
        features = self.features(inputs, image_sizes)
        if self.merge is not None:
            merged = self.merge({str(i): level for i, level in enumerate(features)})
            features = list(merged.values())
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        return self.rpn(features), shapes

    def features(self, inputs: Sequence[Tensor], image_sizes: Tensor) -> list[Tensor]:
        """Levels (B, C_l, h_l, w_l) float32, of images (B, 3, H, W) uint8 or float32, or stored.

        Stored features are float16.
        """
        if inputs[0].dtype == torch.float16:
            return [level.float() for level in inputs]
        levels: list[Tensor] = self.backbone(self.pixels(inputs[0], image_sizes))
        return levels


class ProposalGraph(ExportGraph):
    """Every anchor's box and score, in the order of `RegionProposalNetwork`.

    `images` (B, 3, H, W) uint8, scaled and padded, and `image_sizes` (B, 2) int64, their (height,
    width) before the padding -> `boxes` (B, A, 4) float32 xyxy within the image, in pixels of the
    input, and `scores` (B, A) in [0, 1], 0 where an anchor is not centred on the image.
    """

    outputs = ("boxes", "scores")
    takes_sizes = True

    def __init__(self, model: ProposalModel) -> None:
        """Around a trained model."""
        super().__init__()
        self.model = model
        self._rule = model.rpn.anchor_rule

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Box and score all anchors."""
        output, shapes = self.model([images], image_sizes)
        padded = (images.shape[2], images.shape[3])
        # The model's own grid is kept by size, which a graph for all sizes cannot do.
        levels = zip(shapes, self._rule.scales_per_level, strict=True)
        grid = torch.cat(
            [level_grid(shape, padded, cell_anchors(s, self._rule.ratios)) for shape, s in levels]
        )
        anchors = clip_to_images(grid, image_sizes)
        boxes = clip_to_images(decode(output.deltas, anchors), image_sizes)
        return boxes, output.objectness.sigmoid() * centres_inside(grid, image_sizes)
