"""The RPN's two losses, one number per image.

Each image normalises by its own anchors, so the loss of a batch is the plain mean over images: the
mean over ranks of equally many images is the same number, whatever the world size.
Source: Ren et al. 2015, Faster R-CNN, section 3.1.2, equation 1.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vocdist.models.rpn.anchors import encode
from vocdist.models.rpn.assignment import IGNORE, POSITIVE

# "positives": mean over the coordinates of an image's positive anchors (the notebook).
# "sampled": sum over coordinates, divided by the image's sampled anchors (torchvision).
BoxNormalizer = Literal["positives", "sampled"]


class RpnLosses(NamedTuple):
    """Losses per image: objectness (B,), box (B,)."""

    objectness: Tensor
    box: Tensor


def target_deltas(anchors: Tensor, gt_boxes: Tensor, matched_gt: Tensor) -> Tensor:
    """Offsets from anchors (B, A, 4) to their boxes, gt_boxes[matched_gt (B, A)] -> (B, A, 4).

    Finite for every anchor, also where the match means nothing.
    """
    if gt_boxes.shape[1] == 0:
        return torch.zeros_like(anchors)
    matched_boxes = gt_boxes.gather(1, matched_gt[:, :, None].expand(-1, -1, 4))
    return encode(matched_boxes, anchors)


def rpn_losses(
    objectness: Tensor,
    pred_deltas: Tensor,
    labels: Tensor,
    target_deltas: Tensor,
    *,
    beta: float = 1 / 9,
    box_normalizer: BoxNormalizer = "positives",
) -> RpnLosses:
    """Cross entropy over sampled anchors and smooth L1 over positives, for each image apart.

    Masked sums, never a selection: an image without positives has a box loss of exactly 0 whose
    gradient (0) still reaches every parameter, so that DDP never waits for one.
    """
    sampled, positive = labels != IGNORE, labels == POSITIVE
    entropy = F.binary_cross_entropy_with_logits(
        objectness.float(), positive.float(), reduction="none"
    )
    distance = F.smooth_l1_loss(pred_deltas.float(), target_deltas, beta=beta, reduction="none")
    num_sampled = sampled.sum(dim=1).clamp(min=1)
    box_count = num_sampled
    if box_normalizer == "positives":
        box_count = 4 * positive.sum(dim=1).clamp(min=1)
    return RpnLosses(
        objectness=entropy.masked_fill(~sampled, 0.0).sum(dim=1) / num_sampled,
        box=distance.masked_fill(~positive[:, :, None], 0.0).sum(dim=(1, 2)) / box_count,
    )
