"""Boxes as offsets from anchors: Ren et al. 2015, Faster R-CNN, equation 2.

`(dx, dy)` is the shift of the centre in anchor sides, `(dw, dh)` the log of the ratio of sides.
`decode(encode(boxes, anchors), anchors) == boxes` for boxes at least one pixel wide and high.
Leading dimensions broadcast: (A, 4) anchors serve (B, A, 4) boxes.
"""

import math

import torch
from torch import Tensor

# No box is more than 1000 / 16 times its anchor (torchvision's bound): exp() of what an untrained
# head may give would otherwise overflow.
MAX_LOG_SIZE = math.log(1000 / 16)
# Clipping can leave an anchor without area; a pixel keeps the division and the log finite.
MIN_SIDE = 1.0


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (..., 4) that take each anchor to its box; sides below a pixel count as one."""
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shifts = (centres - anchor_centres) / anchor_sides
    return torch.cat([shifts, torch.log(sides / anchor_sides)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy pixels that the offsets make of each anchor; not clipped to an image."""
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    centres = deltas[..., :2] * anchor_sides + anchor_centres
    half = torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SIZE)) * anchor_sides / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIDE)
    return boxes[..., :2] + sides / 2, sides
