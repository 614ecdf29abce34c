"""The RPN's head: a sliding 3x3 convolution and two sibling 1x1 ones, shared by all levels.

Source: Ren et al. 2015, Faster R-CNN, section 3.1; the objectness prior is from Lin et al. 2017,
Focal Loss, section 4.1.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIOR = 0.01


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
