"""Frozen feature extractors: a torchvision model cut at the strides a detector asks for."""

from collections.abc import Sequence
from typing import Self

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

# The last layer of each stride, by torchvision's names; where a block widens what it will shrink in
# its next layer, that wide one, as in torchvision's SSDLite: 288 channels of stride 16 and not 48.
LEVELS: dict[str, dict[int, str]] = {
    "mobilenet_v3_small": {8: "features.3", 16: "features.9.block.0", 32: "features.12"},
    "mobilenet_v3_large": {8: "features.6", 16: "features.13.block.0", 32: "features.16"},
    "resnet18": {8: "layer2", 16: "layer3", 32: "layer4"},
    "resnet50": {8: "layer2", 16: "layer3", 32: "layer4"},
    "efficientnet_b0": {8: "features.3", 16: "features.6.0.block.0", 32: "features.8"},
    "convnext_tiny": {8: "features.3", 16: "features.5", 32: "features.7"},
}


class FrozenBackbone(nn.Module):
    """Feature maps of a network that does not learn and always normalises by running statistics.

    Attributes:
        name: Of the torchvision model.
        strides: Of its levels, pixels, finest first.
        channels: Of each level.
    """

    def __init__(self, network: nn.Module, name: str, strides: Sequence[int]) -> None:
        """Cut `network`, a torchvision model called `name`, at the given strides."""
        super().__init__()
        self.name = name
        self.strides = tuple(sorted(strides))
        layers = {LEVELS[name][stride]: str(stride) for stride in self.strides}
        # The extractor shares the network's parameters and drops what comes after the last level.
        self.body = create_feature_extractor(network.eval(), return_nodes=layers)
        self.requires_grad_(False)
        self.eval()
        with torch.no_grad():
            probe = self(torch.zeros(1, 3, 64, 64))
        self.channels = tuple(level.shape[1] for level in probe)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) -> one map (B, C_l, ceil(H / s_l), ceil(W / s_l)) a level.

        ConvNeXt rounds down instead: give it sides that are multiples of its strides.
        The outputs carry no graph: what is trained begins behind them.
        """
        levels: dict[str, Tensor] = self.body(images)
        return [levels[str(stride)] for stride in self.strides]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: batches must not move the frozen running statistics."""
        return super().train(False)


def build_network(name: str) -> nn.Module:
    """A torchvision classification model with random weights.

    Its ImageNet classifier layers are as torchvision makes them; see `classifier.py` for ours.
    """
    network: nn.Module = torchvision.models.get_model(name, weights=None)
    return network
