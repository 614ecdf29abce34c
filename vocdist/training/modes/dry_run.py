"""`--dry-run`: what a training would do, without training or writing anything."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from vocdist.config import TaskConfig
from vocdist.data.batch import Batch
from vocdist.runs.checkpoint import Checkpoints
from vocdist.runs.folder import CHECKPOINTS
from vocdist.tasks.task import Task, build_task
from vocdist.training.feature_cache import feature_bytes
from vocdist.training.loaders import Readers, build_loader, build_readers
from vocdist.training.run import resolved
from vocdist.training.start import plan_start

# Activations are measured on this many samples, and grow with their number.
PROBED = 2
MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step of one process holds at once, estimated.

    Attributes:
        weights: Parameters and buffers.
        gradients: Of what learns.
        optimizer: AdamW's two moments.
        average: The averaged weights, with `optim.ema_decay`.
        activations: What the backward pass needs of the forward pass, and the input batch.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return sum(vars(self).values())


def dry_run(config: TaskConfig) -> None:
    """Print sizes, shapes, steps, memory and what would be written; on the main process alone.

    Raises:
        UserError: What a training would raise before its first step, but for weights to download.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    world = int(os.environ.get("WORLD_SIZE", "1"))
    config = replace(config, data=replace(config.data, num_workers=0))
    readers = build_readers(config)
    train_reader, val_reader = readers
    config = resolved(config)
    checkpoints = Checkpoints(config.run.dir / CHECKPOINTS, config.train.keep)
    start = plan_start(config, checkpoints, train_reader.manifest_sha256)
    # Random weights have the same shapes; the real ones might have to be downloaded.
    task = build_task(config, train_reader, pretrained=False)
    loader = build_loader(config, train_reader, training=True, world_size=world)
    batch = task.input_example(next(loader.training(epoch=0)))
    steps = loader.steps_per_epoch()
    memory = step_memory(task, batch, averaged=config.optim.ema_decay is not None)
    files = written_files(config, task, readers, memory)

    table = Table(show_header=False, title=f"{config.task}, trained on nothing yet")
    for key, value in (
        ("run folder", f"{config.run.dir}: {_beginning(start.checkpoint)}"),
        ("shards", f"{config.data.shards}"),
        ("samples", f"{len(train_reader):,} train, {len(val_reader):,} val"),
        ("classes", f"{len(train_reader.manifest.classes)}"),
        ("processes", f"{world}, each with {len(batch.indices)} samples at a time"),
        ("steps", f"{steps:,} an epoch, {steps * config.train.epochs:,} in all"),
        ("first input", ", ".join(map(_described, batch.inputs))),
        *((f"  target {name}", f"{tuple(t.shape)}") for name, t in batch.targets.items()),
        *_outputs(task, batch),
        ("weights from", task.weights_from(config)),
        *_parameters(task.model),
        ("memory of a step", f"about {memory.total / MIB:,.0f} MiB a process, in fp32"),
        *((f"  {k}", f"{v / MIB:,.1f} MiB") for k, v in vars(memory).items()),
        *((f"would write {name}", what) for name, what in files.items()),
    ):
        table.add_row(key, value)
    Console().print(table)


def step_memory(task: Task, batch: Batch, *, averaged: bool) -> Memory:
    """Run one forward pass on a few samples of a batch and count what is kept for the backward."""
    few = _first(batch, PROBED)
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = list(task.model.parameters())
    task.model.train()
    # What is kept stays in memory as long as `losses`, so that no address is counted twice.
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        losses = task.losses(task.model, few)
    for parameter in parameters:
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    del losses
    learning = sum(p.nbytes for p in parameters if p.requires_grad)
    per_sample = (sum(kept.values()) + sum(x.nbytes for x in few.inputs)) / len(few.indices)
    return Memory(
        weights=sum(p.nbytes for p in parameters) + sum(b.nbytes for b in task.model.buffers()),
        gradients=learning,
        optimizer=2 * learning,
        average=learning if averaged else 0,
        activations=round(per_sample * len(batch.indices)),
    )


def written_files(
    config: TaskConfig, task: Task, readers: Readers, memory: Memory
) -> dict[str, str]:
    """What a run leaves in its folder and beside it, with the size of what is large."""
    checkpoint = (memory.weights + memory.optimizer + memory.average) / MIB
    return {
        **_written_features(config, task, readers),
        "checkpoints/": f"{config.train.keep} and the best one, {checkpoint:,.1f} MiB each",
        "model.safetensors": f"{memory.weights / MIB:,.1f} MiB",
        "the rest": "config.yaml, environment.json, status.json, metrics.jsonl, results.json, "
        "predictions.npz, report.html and pictures"
        + ("" if config.tracking.wandb == "disabled" else ", and W&B's files in wandb/"),
    }


def _written_features(config: TaskConfig, task: Task, readers: Readers) -> dict[str, str]:
    frozen = task.frozen_features(config)
    if frozen is None:
        return {}
    where = " on a CPU" if frozen.settings.cache == "auto" else ""
    size = 0.0
    for reader, copies in ((readers.train, 1 + frozen.mirrored), (readers.val, 1)):
        images = build_loader(config, reader, training=False)
        size += copies * len(reader) * feature_bytes(frozen.model.backbone, images)
    return {
        f"{frozen.settings.folder}/": f"{size / MIB:,.1f} MiB of features{where}, where they are "
        f"not there already (features.max_gib={frozen.settings.max_gib:g})"
    }


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


@torch.no_grad()
def _outputs(task: Task, batch: Batch) -> list[tuple[str, str]]:
    """Shapes of what the model says of a few samples."""
    task.model.eval()
    return task.outputs(_first(batch, PROBED))


def _first(batch: Batch, count: int) -> Batch:
    return replace(
        batch,
        inputs=tuple(tensor[:count] for tensor in batch.inputs),
        targets={name: target[:count] for name, target in batch.targets.items()},
        indices=batch.indices[:count],
        weights=batch.weights[:count],
        seeds=batch.seeds[:count],
    )


def _parameters(model: nn.Module) -> list[tuple[str, str]]:
    def counted(module: nn.Module) -> str:
        every = sum(p.numel() for p in module.parameters())
        learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
        return f"{every:,}" + ("" if learning == every else f", {learning:,} of them learn")

    children = dict(model.named_children()).items()
    parts = [(f"  {name}", counted(part)) for name, part in children if list(part.parameters())]
    return [("parameters", counted(model)), *(parts if len(parts) > 1 else [])]


def _beginning(checkpoint: Path | None) -> str:
    return "would begin anew" if checkpoint is None else f"would go on from {checkpoint.name}"
