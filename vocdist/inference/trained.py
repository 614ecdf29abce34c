"""A trained model from a run folder or a single safetensors file, on a device, ready for use."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from vocdist.config import TaskConfig
from vocdist.errors import UserError
from vocdist.models.layers import set_channels_last
from vocdist.runs.checkpoint import load_model, read_metadata
from vocdist.runs.folder import CONFIG, weights_file
from vocdist.shards.format import load_manifest
from vocdist.tasks.task import (
    EvaluationView,
    Task,
    config_of_task,
    evaluation_view,
    load_run_config,
    task_class,
)


@dataclass(frozen=True)
class Trained:
    """A model with all that its use needs.

    Attributes:
        weights: The file they were read from.
        config: The settings it was trained with.
        classes: Class names, in the order of a classifier's scores.
        task: With the model in evaluation mode, on `device`.
        view: How images are made ready for it.
        device: Where it computes.
    """

    weights: Path
    config: TaskConfig
    classes: tuple[str, ...]
    task: Task
    view: EvaluationView
    device: torch.device


def load_trained(source: str | Path, device: str = "auto") -> Trained:
    """Load a run's final weights (its best checkpoint's while it trains), or an exported file's.

    `device` is `auto` (CUDA, else MPS, else the CPU), `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        UserError: There are no weights, their settings are unknown, or the device is not there.
    """
    weights = weights_file(Path(source))
    metadata = read_metadata(weights)
    config = _config_of(weights, metadata)
    classes = _classes_of(weights, metadata, config)
    target = choose_device(device)
    task = task_class(config.task).build(config, classes, None, pretrained=False)
    load_model(task.model, weights)
    task.model.eval().requires_grad_(False).to(target)
    # MPS has computed wrong convolutions in NHWC: not there until it is shown right.
    set_channels_last(task.model, config.runtime.channels_last and target.type != "mps")
    view = evaluation_view(config, len(classes))
    task.take_metadata(metadata)
    return Trained(weights, config, classes, task, view, target)


def choose_device(name: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and the CPU that is there.

    Raises:
        UserError: There is no such device here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind, there in available.items() if there), "cpu"))
    kind = name.partition(":")[0]
    if kind not in ("cpu", *available):
        raise UserError(f"device={name}: choose auto, cpu, cuda, cuda:1 or mps")
    if not available.get(kind, True):
        raise UserError(f"device={name}: torch finds no such device: use auto or cpu")
    return torch.device(name)


def _config_of(weights: Path, metadata: dict[str, str]) -> TaskConfig:
    """From the file itself, else from the run folder it lies in."""
    if "config" in metadata:
        values = json.loads(metadata["config"])
        return config_of_task(values, str(weights))
    for folder in (weights.parent, *weights.parents[1:3]):
        if (folder / CONFIG).is_file():
            return load_run_config(folder)
    raise UserError(
        f"{weights}: does not say how it was trained: pass the run folder, or a file that "
        f"scripts/export.py made"
    )


def _classes_of(weights: Path, metadata: dict[str, str], config: TaskConfig) -> tuple[str, ...]:
    if "classes" in metadata:
        return tuple(json.loads(metadata["classes"]))
    # A run that is still training has them in its shards alone.
    return load_manifest(config.data.shards).classes
