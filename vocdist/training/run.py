"""A training run from its config to its results."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from vocdist.config import TaskConfig
from vocdist.config.file import plain_config
from vocdist.distributed.agreement import Agreement
from vocdist.distributed.preemption import StopRequest
from vocdist.distributed.processes import build_accelerator, lay_out, prepare
from vocdist.errors import NO_ROOM, SharedError, UserError
from vocdist.report.run_report import RunReport
from vocdist.report.wandb_results import note_data_set
from vocdist.runs.checkpoint import WEIGHTS, Checkpoints, Position, load_model
from vocdist.runs.environment import ENVIRONMENT, describe_environment, note_start
from vocdist.runs.folder import CHECKPOINTS, RESULTS, begun_config, load_results
from vocdist.runs.tracking import NullTracker, Tracker
from vocdist.shards.manifest import describe_splits
from vocdist.tasks.task import Task, build_task, task_class
from vocdist.training.finishing import finish
from vocdist.training.loaders import Readers, build_readers, training_loaders
from vocdist.training.loop import Trainer
from vocdist.training.optim import build_optimizer
from vocdist.training.start import Start, alone_in, check_same_start, plan_start, prepare_folder
from vocdist.training.status import run_to_the_end

_GO_ON = "then start again: the run goes on from its last checkpoint"


@contextmanager
def explained(run_dir: Path) -> Iterator[None]:
    """Turn such failures into a `UserError`; all others pass."""
    try:
        yield
    except RuntimeError as error:
        # torch raises it wherever the main process happens to be when the loader process ends.
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a loader process was killed, most often for want of memory "
            f"({str(error).splitlines()[0].strip()}): lower data.num_workers or "
            f"train.global_batch, {_GO_ON}"
        ) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"{run_dir}: cannot be written ({error.strerror}): free some space, {_GO_ON}"
        ) from None


@contextmanager
def leaving_together(accelerator: Accelerator) -> Iterator[None]:
    """Hold all ranks after a `SharedError` until each is done with what it had to close.

    The launcher ends all as soon as one has left, and the main process has a log to finish.
    """
    try:
        yield
    except SharedError:
        accelerator.wait_for_everyone()
        raise


class _Plan(NamedTuple):
    """What is settled before the processes meet."""

    config: TaskConfig
    readers: Readers
    checkpoints: Checkpoints
    start: Start
    task: Task


def train(config: TaskConfig) -> dict[str, float]:
    """Train, or go on, or see that it is done; the best model's metrics, on every rank.

    Raises:
        UserError: Something the user can mend; it is looked for before any process group forms.
        Interrupted: Asked to stop, it has saved its position.
        ProcessLost: Another process has ended or cannot be reached.
    """
    plan = _plan(config)
    config, start, run_dir = plan.config, plan.start, config.run.dir
    accelerator = build_accelerator(config.runtime)
    for note in start.notes:
        accelerator.print(f"{note}: the one before it is used")
    epochs, results = start.position.epoch, run_dir / RESULTS
    finished = epochs == config.train.epochs and results.is_file() and not start.rewound
    with leaving_together(accelerator):
        check_same_start(accelerator, config, start, finished=finished)
    if finished:
        accelerator.print(f"{run_dir}: already trained for {epochs} epochs")
        return load_results(results)
    with alone_in(run_dir) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            prepare_folder(config, plan.checkpoints, start)
            found = describe_environment(accelerator.device, accelerator.num_processes)
            note_start(run_dir / ENVIRONMENT, found)
        return _train(plan, accelerator)


def _train(plan: _Plan, accelerator: Accelerator) -> dict[str, float]:
    stop = StopRequest(has_peers=accelerator.num_processes > 1)
    with leaving_together(accelerator), _tracker(plan, accelerator) as tracker:
        accelerator.print(tracker.whereabouts)
        note_data_set(tracker.run, plan.readers.train)
        trainer = _trainer_at_start(plan, accelerator, tracker, stop)
        # Until here there is nothing to save, and a signal may end the process.
        with stop:
            work = partial(_fit, plan.config, trainer)
            return run_to_the_end(trainer, stop, plan.config.run.dir, work)


def _plan(config: TaskConfig) -> _Plan:
    readers = build_readers(config)
    readers.train.check_cache(config.data.shuffle_shards)
    config = resolved(config)
    checkpoints = Checkpoints(config.run.dir / CHECKPOINTS, config.train.keep)
    holds = describe_splits(readers.train.manifest)
    start = plan_start(config, checkpoints, readers.train.manifest_sha256, holds)
    # The same weights on every rank, whatever the launcher did to the generators.
    torch.manual_seed(config.train.seed)
    task = build_task(config, readers.train, pretrained=start.checkpoint is None)
    return _Plan(config, readers, checkpoints, start, task)


def resolved(config: TaskConfig) -> TaskConfig:
    """The settings with `auto` values replaced, as the run was begun with, see `Task.resolve`."""
    begun = begun_config(type(config), config.run.dir)
    settled: TaskConfig = task_class(config.task).resolve(config, begun)
    return settled


def _tracker(plan: _Plan, accelerator: Accelerator) -> Tracker:
    if not accelerator.is_main_process:
        return NullTracker()
    return Tracker(
        plan.config.run.dir,
        mode=plan.config.tracking.wandb,
        project=plan.config.tracking.project,
        config=plain_config(plan.config),
        run_id=plan.start.position.wandb_run_id,
    )


def _trainer_at_start(
    plan: _Plan, accelerator: Accelerator, tracker: Tracker, stop: StopRequest
) -> Trainer:
    """The trainer at the position where it begins or goes on."""
    position = replace(plan.start.position, wandb_run_id=tracker.run_id)
    checkpoint = plan.start.checkpoint
    if checkpoint:
        # Before the loaders are made: features to keep come from the frozen layers.
        load_model(plan.task.model, checkpoint / WEIGHTS)
    trainer = build_trainer(
        plan.config,
        plan.task,
        plan.readers,
        accelerator,
        checkpoints=plan.checkpoints,
        tracker=tracker,
        position=position,
        stop=stop,
    )
    if checkpoint:
        trainer.saver.restore(checkpoint, position)
        accelerator.print(
            f"going on from {checkpoint}: epoch {position.epoch + 1}, step {position.step}"
        )
    return trainer


def build_trainer(
    config: TaskConfig,
    task: Task,
    readers: Readers,
    accelerator: Accelerator,
    *,
    checkpoints: Checkpoints,
    tracker: Tracker,
    position: Position,
    stop: StopRequest,
) -> Trainer:
    """All parts of a training, ready to go; the model is prepared in place."""
    torch.autograd.set_detect_anomaly(config.runtime.detect_anomaly)
    lay_out(task.model, config.runtime, accelerator.device)
    fused = accelerator.device.type != "mps"
    adamw = build_optimizer(task.model, config.optim, fused=fused)
    model, optimizer = prepare(accelerator, task.model, adamw)
    train_loader, val_loader = training_loaders(config, task, readers, accelerator)
    return Trainer(
        task=task,
        model=model,
        optimizer=optimizer,
        train_loader=train_loader,
        val_loader=val_loader,
        accelerator=accelerator,
        agreement=Agreement(accelerator, stop, config.runtime.collective_timeout_s),
        checkpoints=checkpoints,
        tracker=tracker,
        train=config.train,
        optim=config.optim,
        position=position,
        report=RunReport(config.run.dir, task, *readers) if accelerator.is_main_process else None,
    )


def _fit(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    with explained(config.run.dir):
        trainer.fit()
        return finish(config, trainer)
