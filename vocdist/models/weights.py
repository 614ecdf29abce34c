"""Weights into networks: torchvision's ImageNet download, a file, or a finished run."""

from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model_weights

from vocdist.errors import UserError
from vocdist.models.classifier import NETWORK_PREFIX


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
