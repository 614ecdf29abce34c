"""Which anchors are objects, which are background, and which of them a step learns from.

Everything has static shapes and stays on the device: no `nonzero`, no boolean indexing, no loop
over images. Source: Ren et al. 2015, Faster R-CNN, section 3.1.2 (labels) and 3.1.3 (sampling).
"""

import torch
from torch import Tensor

POSITIVE = 1
NEGATIVE = 0
IGNORE = -1

# Any real overlap; IoU 0 is what a box has with every anchor that does not touch it.
ANY_OVERLAP = 1e-6


def pairwise_iou(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """IoU of (..., M, 4) and (..., G, 4) xyxy boxes -> (..., M, G); 0 where both have no area.

    torchvision's `box_iou` broadcasts too, but gives NaN for two boxes without area, and a padded
    box beside an anchor that was clipped away is such a pair.
    """
    left, top, right, bottom = boxes.unsqueeze(-2).unbind(-1)
    gt_left, gt_top, gt_right, gt_bottom = gt_boxes.unsqueeze(-3).unbind(-1)
    width = torch.minimum(right, gt_right) - torch.maximum(left, gt_left)
    height = torch.minimum(bottom, gt_bottom) - torch.maximum(top, gt_top)
    intersection = width.clamp(min=0) * height.clamp(min=0)
    union = _area(boxes).unsqueeze(-1) + _area(gt_boxes).unsqueeze(-2) - intersection
    return intersection / union.clamp(min=torch.finfo(union.dtype).tiny)


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    gt_mask: Tensor,
    valid: Tensor,
    *,
    positive_iou: float = 0.7,
    negative_iou: float = 0.3,
    best_anchor_min_iou: float | None = ANY_OVERLAP,
) -> tuple[Tensor, Tensor]:
    """Label anchors (B, A, 4) by their best box -> labels (B, A) int8, matched_gt (B, A) int64.

    IoU >= `positive_iou` is POSITIVE, < `negative_iou` NEGATIVE, between them IGNORE. The anchors
    with a box's best IoU (ties too) are POSITIVE where that is at least `best_anchor_min_iou`;
    None turns the rule off, and 0.0 is the notebook's and torchvision's: there a box that touches
    no anchor ties with all of them at 0 and makes every anchor of the image POSITIVE.

    `matched_gt` is the anchor's own best box, also where another box's best anchor it became, and
    means nothing where no box is there. Boxes outside `gt_mask` (B, G) match nothing; anchors
    outside `valid` (B, A) are IGNORE.
    """
    if gt_boxes.shape[1] == 0:
        background = torch.full_like(valid, NEGATIVE, dtype=torch.int8)
        matched_gt = torch.zeros_like(valid, dtype=torch.int64)
        return background.masked_fill(~valid, IGNORE), matched_gt
    iou = pairwise_iou(anchors, gt_boxes)
    # Below any IoU, so that neither padded boxes nor ignored anchors are ever the best.
    iou = iou.masked_fill(~(valid[:, :, None] & gt_mask[:, None, :]), -1.0)
    best_iou, matched_gt = iou.max(dim=2)
    positive = best_iou >= positive_iou
    if best_anchor_min_iou is not None:
        best_of_box = iou.amax(dim=1, keepdim=True)
        is_best = (iou == best_of_box) & (best_of_box >= best_anchor_min_iou)
        positive = positive | is_best.any(dim=2)
    # masked_fill throughout: torch.where would copy each number to the device, and wait for it.
    labels = torch.full_like(matched_gt, IGNORE, dtype=torch.int8)
    labels = labels.masked_fill(best_iou < negative_iou, NEGATIVE).masked_fill(positive, POSITIVE)
    return labels.masked_fill(~valid, IGNORE), matched_gt


def sample_anchors(
    labels: Tensor,
    keys: Tensor,
    *,
    max_positives: int,
    max_negatives: int,
    max_total: int | None = None,
) -> Tensor:
    """Keep the anchors with the lowest random keys, the rest become IGNORE -> labels (B, A) int8.

    Without `max_total` the two limits are independent (the notebook: 256 and 256). With it, an
    image's negatives fill what its positives leave: 256 in all and at most 128 positives is
    Faster R-CNN's and torchvision's balanced rule. `keys` (B, A) are in [0, 1), see `random_keys`.
    """
    positives = _lowest_keys(keys, labels == POSITIVE, max_positives)
    negative_quota = None if max_total is None else max_total - positives.sum(dim=1, keepdim=True)
    negatives = _lowest_keys(keys, labels == NEGATIVE, max_negatives, negative_quota)
    return labels.masked_fill(~(positives | negatives), IGNORE)


def _lowest_keys(
    keys: Tensor, candidates: Tensor, limit: int, quota: Tensor | None = None
) -> Tensor:
    """Mark the candidates (B, A) with the lowest keys, at most `limit` and `quota` (B, 1) each."""
    limit = min(limit, keys.shape[1])
    # Keys are below 1, so at 2 whatever is no candidate comes last and can be told apart.
    lowest, index = keys.masked_fill(~candidates, 2.0).topk(limit, dim=1, largest=False)
    taken = lowest < 1.0
    if quota is not None:
        taken = taken & (torch.arange(limit, device=keys.device) < quota)
    # Whatever is not taken goes to a column of its own. A scatter of a number, not of a tensor:
    # with deterministic algorithms CUDA sorts for the latter.
    beyond = candidates.shape[1]
    marks = candidates.new_zeros(len(candidates), beyond + 1)
    return marks.scatter(1, index.masked_fill(~taken, beyond), True)[:, :-1]


def _area(boxes: Tensor) -> Tensor:
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
