"""From scored anchors to the best boxes of each image: top-k, decode, clip, NMS. Inference only.

Source: Ren et al. 2015, Faster R-CNN, section 3.3; per-level selection as in Lin et al. 2017,
Feature Pyramid Networks, section 5.1 and torchvision's `filter_proposals`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from vocdist.models.rpn.anchors import clip_to_images, decode


class Proposals(NamedTuple):
    """One image's proposals, best first: boxes (K, 4) within the image, scores (K,) in [0, 1]."""

    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def select_proposals(
    objectness: Tensor,
    pred_deltas: Tensor,
    anchors: Tensor,
    image_sizes: Tensor,
    level_sizes: Sequence[int],
    *,
    valid: Tensor | None = None,
    pre_nms_top_k: int = 1200,
    post_nms_top_k: int = 200,
    nms_threshold: float = 0.7,
    min_size: float = 16.0,
    score_threshold: float | None = None,
) -> list[Proposals]:
    """The `post_nms_top_k` best boxes of each image, or all that are left where they are fewer.

    `objectness` (B, A) logits, `pred_deltas` (B, A, 4), `anchors` (A, 4) or (B, A, 4);
    `level_sizes` are the anchors of each level. `pre_nms_top_k` per level go into NMS, which
    treats images and levels apart; `min_size` is the least side in pixels after clipping.
    Anchors outside `valid` (B, A) propose nothing.
    """
    # Ordered by logits: scores near 1 round to ties.
    logits = objectness.float()
    if valid is not None:
        logits = logits.masked_fill(~valid, -torch.inf)
    top = _top_per_level(logits, level_sizes, pre_nms_top_k)
    logits = logits.gather(1, top)
    boxes = clip_to_images(
        decode(_take(pred_deltas.float(), top), _take(anchors, top)), image_sizes
    )
    keep = logits > -torch.inf
    keep &= (boxes[..., 2:] - boxes[..., :2] >= min_size).all(dim=-1)
    if score_threshold is not None:
        keep &= logits.sigmoid() >= score_threshold
    image, position = keep.nonzero(as_tuple=True)
    boxes, logits = boxes[keep], logits[keep]
    level = _level_of_anchor(level_sizes, top.device)[top[image, position]]
    group = image * len(level_sizes) + level
    kept = _nms_of_groups(boxes, logits, group, nms_threshold)
    return _split_by_image(boxes[kept], logits[kept], image[kept], len(top), post_nms_top_k)


def _top_per_level(logits: Tensor, level_sizes: Sequence[int], count: int) -> Tensor:
    """Indices (B, up to L * count) into the A anchors of each level's best."""
    best, start = [], 0
    for level in torch.split(logits, list(level_sizes), dim=1):
        best.append(level.topk(min(count, level.shape[1]), dim=1).indices + start)
        start += level.shape[1]
    return torch.cat(best, dim=1)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N, 4) that index (B, N) picks from (A, 4) or (B, A, 4)."""
    rows = values.expand(index.shape[0], -1, -1)
    return rows.gather(1, index[:, :, None].expand(-1, -1, 4))


def _level_of_anchor(level_sizes: Sequence[int], device: torch.device) -> Tensor:
    levels = [torch.full((size,), level, device=device) for level, size in enumerate(level_sizes)]
    return torch.cat(levels)


def _nms_of_groups(boxes: Tensor, logits: Tensor, group: Tensor, threshold: float) -> Tensor:
    """Ascending indices of the boxes that survive NMS within their group."""
    # batched_nms shifts each group by its number times the image's size. In float32 that costs the
    # coordinates their fractions, and an image's proposals would depend on its place in the batch.
    dtype = torch.float32 if boxes.device.type == "mps" else torch.float64
    kept: Tensor = batched_nms(boxes.to(dtype), logits.to(dtype), group, threshold)
    # Not by score: batched_nms leaves equal scores in any order.
    return kept.sort().values


def _split_by_image(
    boxes: Tensor, logits: Tensor, image: Tensor, num_images: int, count: int
) -> list[Proposals]:
    """Each image's `count` best rows, by logit; rows of one logit stay in the order given."""
    order = logits.argsort(descending=True, stable=True)
    order = order[image[order].argsort(stable=True)]
    sizes = image.bincount(minlength=num_images).tolist()
    box_groups = torch.split(boxes[order], sizes)
    score_groups = torch.split(logits[order].sigmoid(), sizes)
    return [
        Proposals(kept[:count], scores[:count])
        for kept, scores in zip(box_groups, score_groups, strict=True)
    ]
