"""torchvision's networks: built, cut at the strides a detector asks for, and given weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self
from urllib.error import URLError

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights
from torchvision.models.feature_extraction import create_feature_extractor

from vocdist.errors import UserError

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
# What a classifier's state dict puts before torchvision's names.
NETWORK_PREFIX = "network."


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


def load_weights(network: nn.Module, name: str, weights: str) -> None:
    """Load weights into a torchvision model called `name`, in place.

    `weights` is `none` (nothing is done), `imagenet`, or the path of a `.pth` or `.safetensors`
    state dict. A dict of the features alone will do, and layers behind them whose shape differs
    (another number of classes) are left as they are.

    Raises:
        UserError: The download or the file failed, or the dict is of another network.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        state, origin = _imagenet_state(name), f"torchvision's ImageNet weights for {name}"
    else:
        state, origin = read_state_dict(Path(weights)), weights
    load_features(network, state, origin)


def load_features(network: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a state dict that must hold all features of a network; its head is optional.

    Raises:
        UserError: A feature is missing or has another shape, or there are unknown names.
    """
    own = network.state_dict()
    # A classifier of ours holds its network under this name.
    state = {name.removeprefix(NETWORK_PREFIX): value for name, value in state.items()}
    unknown = sorted(state.keys() - own.keys())
    missing = sorted(name for name in own.keys() - state.keys() if not in_head(name))
    reshaped = sorted(
        name
        for name in own.keys() & state.keys()
        if own[name].shape != state[name].shape and not in_head(name)
    )
    for problem, names in (("lacks", missing), ("has the unknown", unknown)):
        if names:
            raise UserError(
                f"{origin}: {problem} {names[0]} ({len(names)} such names): the weights are of "
                f"another network; set model.backbone to theirs"
            )
    if reshaped:
        raise UserError(f"{origin}: {reshaped[0]} has another shape; set model.backbone to theirs")
    fitting = {key: value for key, value in state.items() if own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a `.pth` (tensors only: nothing is unpickled but them) or `.safetensors` file.

    Raises:
        UserError: There is no such file, or it is not a state dict.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; pass a path, 'imagenet' or 'none'")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of as many types as there are files that hold something else
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(
            f"{path}: holds no weights (not a state dict of tensors: {reason})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: not a state dict: save `model.state_dict()` and pass that")
    return state


def _imagenet_state(name: str) -> dict[str, Tensor]:
    weights = get_model_weights(name).DEFAULT
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise UserError(
            f"could not download {weights.url} ({error}): fetch it elsewhere and put it at "
            f"{cache}, or pass the file with model.weights=PATH, or train from scratch with "
            f"model.weights=none"
        ) from None
    return state


def in_backbone(name: str) -> bool:
    """Whether a parameter of a task's model belongs to the features of a torchvision network."""
    if name.startswith(NETWORK_PREFIX):
        return not in_head(name.removeprefix(NETWORK_PREFIX))
    return name.startswith("backbone.")


def in_head(name: str) -> bool:
    """Whether a parameter lies behind the features, by torchvision's names."""
    return name.startswith(("classifier.", "fc."))
