"""Measuring a split on every sample exactly once, on any number of processes."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from vocdist.config import TaskConfig
from vocdist.data.batch import Batch
from vocdist.data.loader import ahead_of_use
from vocdist.distributed.processes import build_accelerator, gather_lists, lay_out, runtime_of_use
from vocdist.errors import SharedError, UserError
from vocdist.runs.checkpoint import load_model, read_metadata
from vocdist.runs.folder import run_around, run_weights, weights_file
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import Record, Task, build_task, check_shards, load_run_config
from vocdist.training.loaders import build_reader, split_loader


class Evaluation(NamedTuple):
    """Metrics of a split, and the record of each of its samples, in the split's order."""

    metrics: dict[str, float]
    records: list[Record]


def evaluate(
    task: Task, model: nn.Module, batches: Iterable[Batch], samples: int, accelerator: Accelerator
) -> Evaluation:
    """Metrics over all ranks' batches of a whole split, the same on every rank (a collective).

    Raises:
        SharedError: A sample's loss is inf or NaN.
        RuntimeError: The ranks together did not see each of the `samples` exactly once.
    """
    records = measure_samples(task, model, batches, range(samples), accelerator)
    return Evaluation(task.metrics(records), records)


@torch.no_grad()
def measure_samples(
    task: Task,
    model: nn.Module,
    batches: Iterable[Batch],
    indices: Sequence[int],
    accelerator: Accelerator,
) -> list[Record]:
    """The records of all ranks' batches, in the order of `indices`, on every rank (a collective).

    Records travel with the index of their sample and are put into order before anything is summed,
    so the figures do not depend on the number of processes. What a task leaves on the device stays
    there until the last batch is on its way, so that the device is not waited for in between.

    Raises:
        SharedError: A sample's loss is inf or NaN.
        RuntimeError: The ranks together did not see each of the `indices` exactly once.
    """
    was_training = model.training
    model.eval()
    measured = [(batch.indices, task.records_later(model, batch)) for batch in batches]
    own: list[tuple[int, Record]] = []
    for of_batch, records_of_batch in measured:
        own += zip(of_batch.tolist(), records_of_batch(), strict=True)
    model.train(was_training)
    gathered = gather_lists(accelerator, own)
    by_index, samples = dict(gathered), len(indices)
    if len(gathered) != samples or sorted(by_index) != list(indices):
        raise RuntimeError(
            f"evaluated {len(gathered)} samples, {len(by_index)} of them distinct, of {samples}"
        )
    records = [by_index[index] for index in indices]
    losses = np.array([record["loss"] for record in records], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise SharedError(
            f"the loss of {len(bad)} of {samples} samples is not finite in evaluation (the first "
            f"is sample {indices[bad[0]]}): these weights are of no use: lower optim.lr, set "
            f"train.clip_norm or use runtime.mixed_precision=fp32"
        )
    return records


class MeasuredRun(NamedTuple):
    """A run, measured on the val split of a reader."""

    config: TaskConfig
    task: Task
    evaluation: Evaluation
    reader: ShardReader


def measure_run(place: Path, overrides: list[str]) -> MeasuredRun:
    """Measure a run on its val split; overrides may name other shards or another rule.

    `place` is a run, or its checkpoints, one of them, or `best` or `last` there, which stand for
    the weights that `weights_file` says.

    Raises:
        UserError: It is nothing of a run, there are no weights, or its shards are gone.
    """
    weights = weights_file(place)
    run_dir = run_around(weights)
    if run_dir is None:
        raise UserError(f"{place}: is of no run, whose val split could be measured: pass a run")
    config = load_run_config(run_dir, overrides)
    runtime, notes = runtime_of_use(config.runtime, overrides)
    accelerator = build_accelerator(runtime)
    for note in notes:
        accelerator.print(note)
    task = load_task(config, run_dir, weights)
    lay_out(task.model, runtime, accelerator.device)
    model = accelerator.prepare_model(task.model, evaluation_mode=True)
    loader = split_loader(config, task, build_reader(config, "val"), accelerator, training=False)
    batches = ahead_of_use(loader.evaluation(), accelerator.device)
    evaluation = evaluate(task, model, batches, len(loader.dataset), accelerator)
    return MeasuredRun(config, task, evaluation, loader.dataset.reader)


def load_task(config: TaskConfig, run_dir: Path, weights: Path | None = None) -> Task:
    """A run's task with these weights of it, by default those of `run_weights`.

    Raises:
        UserError: There are no weights yet, or the classifier knows other classes than the shards.
    """
    check_shards(run_dir, config)
    reader = build_reader(config, "train")
    task = build_task(config, reader, pretrained=False)
    weights = weights or run_weights(run_dir)
    metadata = read_metadata(weights)
    classes = metadata.get("classes")
    foreign = classes is not None and tuple(json.loads(classes)) != reader.manifest.classes
    if foreign and task.knows_classes:
        raise UserError(
            f"{run_dir}: was trained for other classes than those of {config.data.shards}: make "
            f"shards with the same classes, in the same order"
        )
    load_model(task.model, weights)
    task.take_metadata(metadata)
    return task
