"""Measuring a finished run."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vocdist.config import ClassifierConfig, TaskConfig
from vocdist.data.loader import ahead_of_use
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader
from vocdist.training.accelerator import build_accelerator, lay_out
from vocdist.training.build_task import build_task
from vocdist.training.checkpoint_files import load_model, read_metadata
from vocdist.training.classifier_task import ClassifierTask
from vocdist.training.evaluation import Evaluation, evaluate
from vocdist.training.loaders import build_reader, split_loader
from vocdist.training.run_folder import load_run_config, run_weights
from vocdist.training.task import Task


class MeasuredRun(NamedTuple):
    """A run, measured on the val split of a reader."""

    config: TaskConfig
    evaluation: Evaluation
    reader: ShardReader


def measure_run(run_dir: Path, overrides: list[str]) -> MeasuredRun:
    """Measure a run's weights on its val split; overrides may name other shards or another rule.

    Raises:
        UserError: The folder is not a run, or its shards are gone.
    """
    config = load_run_config(run_dir, overrides)
    accelerator = build_accelerator(config.runtime)
    task = load_task(config, run_dir)
    lay_out(task.model, config.runtime, accelerator.device)
    model = accelerator.prepare_model(task.model, evaluation_mode=True)
    loader = split_loader(config, task, build_reader(config, "val"), accelerator, training=False)
    batches = ahead_of_use(loader.evaluation(), accelerator.device)
    evaluation = evaluate(task, model, batches, len(loader.dataset), accelerator)
    return MeasuredRun(config, evaluation, loader.dataset.reader)


def load_task(config: TaskConfig, run_dir: Path) -> Task:
    """A run's task with its final weights, or its best checkpoint's while it is still training.

    Raises:
        UserError: There are no weights yet, or the classifier knows other classes than the shards.
    """
    reader = build_reader(config, "train")
    task = build_task(config, reader, pretrained=False)
    weights = run_weights(run_dir)
    metadata = read_metadata(weights)
    classes = metadata.get("classes")
    foreign = classes is not None and tuple(json.loads(classes)) != reader.manifest.classes
    if foreign and isinstance(config, ClassifierConfig):
        raise UserError(
            f"{run_dir}: was trained for other classes than those of {config.data.shards}: make "
            f"shards with the same classes, in the same order"
        )
    load_model(task.model, weights)
    if isinstance(task, ClassifierTask) and "thresholds" in metadata:
        task.thresholds = np.asarray(json.loads(metadata["thresholds"]))
    return task
