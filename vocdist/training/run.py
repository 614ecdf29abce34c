"""A training run from its config to its results, and measuring a finished one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from vocdist.atomic import replaced_when_done
from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config_file import plain_config
from vocdist.data.loader import ahead_of_use
from vocdist.errors import UserError
from vocdist.models.pixels import set_channels_last
from vocdist.report.curves import plot_curves
from vocdist.report.overlays import contact_sheet
from vocdist.shards.manifest import describe_splits
from vocdist.shards.reader import ShardReader
from vocdist.training.accelerator import build_accelerator, prepare
from vocdist.training.agreement import Agreement
from vocdist.training.build import (
    build_loader,
    build_reader,
    build_task,
    resolve_features,
)
from vocdist.training.checkpoint import Checkpoints, Position
from vocdist.training.checkpoint_files import WEIGHTS, load_model, read_metadata, save_weights
from vocdist.training.classifier_task import ClassifierTask
from vocdist.training.ending import run_to_the_end
from vocdist.training.environment import ENVIRONMENT, describe_environment, note_start
from vocdist.training.evaluation import Evaluation, evaluate
from vocdist.training.failures import explained, leaving_together
from vocdist.training.loading import split_loader
from vocdist.training.loop import Trainer
from vocdist.training.optimizer import build_optimizer
from vocdist.training.overlays import proposal_overlays
from vocdist.training.preemption import StopRequest
from vocdist.training.rpn_task import RpnTask
from vocdist.training.run_folder import (
    CHECKPOINTS,
    FINAL_WEIGHTS,
    RESULTS,
    begun_config,
    load_results,
    load_run_config,
    plan_start,
    prepare_folder,
    run_weights,
    save_results,
)
from vocdist.training.run_report import RunReport
from vocdist.training.task import Record, Task
from vocdist.training.tracking import METRICS, NullTracker, Tracker
from vocdist.training.wandb_results import note_best, note_data_set, result_values


class Readers(NamedTuple):
    """The two splits that a training needs."""

    train: ShardReader
    val: ShardReader


class MeasuredRun(NamedTuple):
    """A run, measured on the val split of a reader."""

    config: TaskConfig
    evaluation: Evaluation
    reader: ShardReader


# Val images in the picture of proposals at the end of a run.
PICTURED = 6


def train(config: TaskConfig) -> dict[str, float]:
    """Train, or go on, or see that it is done; the best model's metrics, on every rank.

    Raises:
        UserError: Something the user can mend; it is looked for before any process group forms.
        Interrupted: Asked to stop, it has saved its position.
        ProcessLost: Another process has ended or cannot be reached.
    """
    readers = Readers(build_reader(config, "train"), build_reader(config, "val"))
    readers.train.check_cache(config.data.shuffle_shards)
    if isinstance(config, RpnConfig):
        config = resolve_features(config, begun_config(RpnConfig, config.run.dir))
    checkpoints = Checkpoints(config.run.dir / CHECKPOINTS, config.train.keep)
    holds = describe_splits(readers.train.manifest)
    start = plan_start(config, checkpoints, readers.train.manifest_sha256, holds)
    # The same weights on every rank, whatever the launcher did to the generators.
    torch.manual_seed(config.train.seed)
    task = build_task(config, readers.train, pretrained=start.checkpoint is None)

    accelerator = build_accelerator(config.runtime)
    for note in start.notes:
        accelerator.print(f"{note}: the one before it is used")
    position, results = start.position, config.run.dir / RESULTS
    if position.epoch == config.train.epochs and results.is_file() and not start.rewound:
        accelerator.print(f"{config.run.dir}: already trained for {position.epoch} epochs")
        return load_results(results)
    if accelerator.is_main_process:
        prepare_folder(config, checkpoints, start)
        found = describe_environment(accelerator.device, accelerator.num_processes)
        note_start(config.run.dir / ENVIRONMENT, found)
    stop = StopRequest(has_peers=accelerator.num_processes > 1)
    with (
        leaving_together(accelerator),
        _tracker(config, accelerator, position.wandb_run_id) as tracker,
    ):
        accelerator.print(tracker.whereabouts)
        note_data_set(tracker.run, readers.train)
        position = replace(position, wandb_run_id=tracker.run_id)
        if start.checkpoint:
            # Before the loaders are made: features to keep come from the frozen layers.
            load_model(task.model, start.checkpoint / WEIGHTS)
        trainer = build_trainer(
            config, task, readers, accelerator, checkpoints, tracker, position, stop=stop
        )
        if start.checkpoint:
            trainer.saver.restore(start.checkpoint, position)
            accelerator.print(
                f"going on from {start.checkpoint}: epoch {position.epoch + 1}, "
                f"step {position.step}"
            )
        # Until here there is nothing to save, and a signal may end the process.
        with stop:
            return run_to_the_end(trainer, stop, config.run.dir, lambda: _fit(config, trainer))


def evaluate_run(run_dir: Path, overrides: list[str]) -> tuple[TaskConfig, dict[str, float]]:
    """Measure a run's weights on its val split; overrides may name other shards or another rule.

    Raises:
        UserError: The folder is not a run, or its shards are gone.
    """
    run = measure_run(run_dir, overrides)
    return run.config, run.evaluation.metrics


def measure_run(run_dir: Path, overrides: list[str]) -> MeasuredRun:
    """As `evaluate_run`, with the record of each sample."""
    config = load_run_config(run_dir, overrides)
    accelerator = build_accelerator(config.runtime)
    task = load_task(config, run_dir)
    lay_out(config, task, accelerator)
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


def _tracker(config: TaskConfig, accelerator: Accelerator, run_id: str | None) -> Tracker:
    if not accelerator.is_main_process:
        return NullTracker()
    return Tracker(
        config.run.dir,
        mode=config.tracking.wandb,
        project=config.tracking.project,
        config=plain_config(config),
        run_id=run_id,
    )


def build_trainer(
    config: TaskConfig,
    task: Task,
    readers: Readers,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    tracker: Tracker,
    position: Position,
    *,
    stop: StopRequest | None = None,
) -> Trainer:
    """All parts of a training, ready to go; the model is prepared in place.

    Without a `stop` the training cannot be asked to stop.
    """
    stop = stop or StopRequest(has_peers=accelerator.num_processes > 1)
    torch.autograd.set_detect_anomaly(config.runtime.detect_anomaly)
    lay_out(config, task, accelerator)
    fused = accelerator.device.type != "mps"
    adamw = build_optimizer(task.model, config.optim, fused=fused)
    model, optimizer = prepare(accelerator, task.model, adamw)
    return Trainer(
        task=task,
        model=model,
        optimizer=optimizer,
        train_loader=split_loader(
            config, task, readers.train, accelerator, training=True, keep_decoded=True
        ),
        val_loader=split_loader(
            config, task, readers.val, accelerator, training=False, keep_decoded=True
        ),
        accelerator=accelerator,
        agreement=Agreement(accelerator, stop, config.runtime.collective_timeout_s),
        checkpoints=checkpoints,
        tracker=tracker,
        train=config.train,
        optim=config.optim,
        position=position,
        report=RunReport(config, *readers) if accelerator.is_main_process else None,
    )


def lay_out(config: TaskConfig, task: Task, accelerator: Accelerator) -> None:
    """Order the model's memory as the config asks for."""
    # MPS has computed wrong convolutions in NHWC: not there until it is shown right.
    on_mps = accelerator.device.type == "mps"
    set_channels_last(task.model, config.runtime.channels_last and not on_mps)
    if config.runtime.compile:
        task.model.compile()


def _fit(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    with explained(config.run.dir):
        trainer.fit()
        return _finish(config, trainer)


def _finish(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    """Measure the best weights, and leave them with the results and pictures in the run folder."""
    best = trainer.checkpoints.best()
    if best is not None:
        trainer.saver.load_weights(best / WEIGHTS)
    epoch = trainer.position.best_epoch if best else trainer.position.epoch
    if isinstance(trainer.task, ClassifierTask):
        trainer.task.choose_thresholds(_train_records(config, trainer))
    measured = trainer.measure()
    metrics = {**measured.metrics, "epoch": epoch}
    if trainer.accelerator.is_main_process:
        run_dir = config.run.dir
        classes = trainer.val_loader.dataset.reader.manifest.classes
        # With these the file can be used without the run folder.
        metadata = {"classes": json.dumps(classes), "config": json.dumps(plain_config(config))}
        if isinstance(trainer.task, ClassifierTask) and trainer.task.thresholds is not None:
            metadata["thresholds"] = json.dumps(trainer.task.thresholds.tolist())
        with replaced_when_done(run_dir / FINAL_WEIGHTS) as temporary:
            save_weights(trainer.task.model, temporary, metadata)
        pictures = {"curves": run_dir / "curves.png"}
        plot_curves(run_dir / METRICS, pictures["curves"])
        if isinstance(trainer.task, RpnTask):
            pictures["proposals"] = run_dir / "proposals.png"
            samples = range(min(PICTURED, len(trainer.val_loader.dataset)))
            images = build_loader(config, trainer.val_loader.dataset.reader, training=False)
            overlays = proposal_overlays(trainer.task, images, samples)
            contact_sheet(overlays, columns=3).save(pictures["proposals"])
        if trainer.report:
            trainer.report.write(measured.records, metrics)
        others = result_values(run_dir, metrics) if trainer.tracker.run else {}
        trainer.tracker.log_pictures(pictures, trainer.position.global_step, others)
        note_best(trainer.tracker.run, run_dir, metrics)
        # Written last: its presence says that the run is finished.
        save_results(metrics, run_dir / RESULTS)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _train_records(config: TaskConfig, trainer: Trainer) -> list[Record]:
    """The records of the train split, seen as an evaluation sees images."""
    reader, accelerator = trainer.train_loader.dataset.reader, trainer.accelerator
    loader = split_loader(config, trainer.task, reader, accelerator, training=False)
    batches = trainer.agreement.evaluation(ahead_of_use(loader.evaluation(), accelerator.device))
    return evaluate(trainer.task, trainer.model, batches, len(reader), accelerator).records
