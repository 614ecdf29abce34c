"""The files of one checkpoint: how they are written, told whole from damaged, and read."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vocdist.atomic import fsync
from vocdist.errors import UserError

WEIGHTS = "model.safetensors"
TRAINING = "training.pt"
STATE = "state.json"
# In the form of coreutils: `sha256sum --check SHA256SUMS` in the folder.
CHECKSUMS = "SHA256SUMS"


def write_files(
    folder: Path, state: Mapping[str, Any], model: nn.Module, training: Mapping[str, Any]
) -> None:
    """Write a checkpoint's files and wait until they are on the disk.

    `state` is plain JSON; `training` must be loadable by `torch.load(weights_only=True)`.
    Everything is made in memory, so that a full disk is a plain `OSError`.
    """
    buffer = io.BytesIO()
    torch.save(dict(training), buffer)
    position = json.dumps(dict(state), indent=1) + "\n"
    contents = {WEIGHTS: _weights(model), TRAINING: buffer.getvalue(), STATE: position.encode()}
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in contents.items()]
    contents[CHECKSUMS] = "".join(sums).encode()
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        fsync(folder / name)


def damage(checkpoint: Path) -> str | None:
    """What is missing from a checkpoint or differs from its checksums; None when it is whole."""
    try:
        lines = (checkpoint / CHECKSUMS).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        return f"{CHECKSUMS} cannot be read: {error.__class__.__name__}"
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (WEIGHTS, TRAINING, STATE):
        try:
            content = (checkpoint / name).read_bytes()
        except OSError as error:
            return f"{name}: {error.strerror}"
        if hashlib.sha256(content).hexdigest() != sums.get(name):
            return f"{name} does not match {CHECKSUMS}"
    return None


def load_training(checkpoint: Path) -> dict[str, Any]:
    """Read optimizer and meters of a checkpoint, tensors on the CPU.

    Raises:
        UserError: The file is missing or damaged.
    """
    path = checkpoint / TRAINING
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen unrelated types for a bad file
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    return state


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's state dict as safetensors, each tensor contiguous in memory."""
    path.write_bytes(_weights(model, metadata))


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_weights` wrote beside the tensors; empty when it wrote nothing.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as weights:
            return dict(weights.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def load_model(model: nn.Module, path: Path) -> None:
    """Read weights written by `save_weights` into a model of the same shape.

    Raises:
        UserError: The file is missing, damaged, or of another model.
    """
    try:
        state: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    if differences := _differences(state, model.state_dict()):
        raise UserError(
            f"{path}: weights of another network ({'; '.join(differences)}): set model.* (and the "
            f"classes) to those that they were trained with"
        )
    model.load_state_dict(state)


def _differences(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """How a file's tensors differ from a model's, a few words for each kind of difference."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    others = [
        f"{name}: {tuple(found[name].shape)} where {tuple(tensor.shape)} is expected"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    kinds = {"missing": missing, "not of this model": unknown, "of another shape": others}
    return [f"{len(names)} {kind}, as {names[0]}" for kind, names in kinds.items() if names]


def _weights(model: nn.Module, metadata: Mapping[str, str] | None = None) -> bytes:
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return save(state, dict(metadata or {}))
