"""The Region Proposal Network over ready feature maps: head, targets, losses, proposals.

It never sees the backbone, so features may come from a cache as well. Under DDP only `forward` goes
through the wrapper; `losses` and `propose` work on its output.
Source: Ren et al. 2015, Faster R-CNN, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vocdist.models.random_keys import random_keys
from vocdist.models.rpn.anchors import centres_inside, clip_to_images, grid_anchors
from vocdist.models.rpn.assignment import ANY_OVERLAP, match_anchors, sample_anchors
from vocdist.models.rpn.head import HeadOutput, RpnHead
from vocdist.models.rpn.losses import BoxNormalizer, RpnLosses, rpn_losses, target_deltas
from vocdist.models.rpn.proposals import Proposals, select_proposals


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
