"""A training run from its config to its results: `train` first, then its parts in their order."""

import json
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from vocdist.config import TaskConfig
from vocdist.config.file import plain_config
from vocdist.data.loader import ahead_of_use
from vocdist.distributed.agreement import Agreement
from vocdist.distributed.launcher import launcher
from vocdist.distributed.preemption import StopRequest
from vocdist.distributed.processes import (
    build_accelerator,
    launched_processes,
    lay_out,
    prepare,
    with_precision,
)
from vocdist.drawing import contact_sheet
from vocdist.files.atomic import replaced_when_done
from vocdist.report.page import RunReport
from vocdist.runs.checkpoint import WEIGHTS, Checkpoints, Position, load_model, save_weights
from vocdist.runs.environment import ENVIRONMENT, describe_environment, note_start
from vocdist.runs.folder import (
    CHECKPOINTS,
    FINAL_WEIGHTS,
    RESULTS,
    begun_config,
    load_results,
    save_results,
)
from vocdist.runs.tracking import METRICS, NullTracker, Tracker
from vocdist.shards.format import describe_splits
from vocdist.tasks.task import Record, Task, build_task, task_class
from vocdist.training.evaluation import measure_samples
from vocdist.training.loaders import (
    Readers,
    build_loader,
    build_readers,
    split_loader,
    training_loaders,
)
from vocdist.training.loop import Trainer
from vocdist.training.optim import build_optimizer
from vocdist.training.start import Start, check_ranks_agree, plan_start, prepare_folder, run_lock
from vocdist.training.status import failing_together, readable_errors, run_to_the_end
from vocdist.training.step import build_step


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
    gpus = torch.cuda.device_count()
    notes = launcher().notes(config.runtime, config.train, launched_processes(), gpus)
    accelerator = build_accelerator(config.runtime)
    notes += task_class(config.task).notes(*plan.readers)
    for note in (*notes, *start.notes):
        accelerator.print(note)
    epochs, results = start.position.epoch, run_dir / RESULTS
    finished = epochs == config.train.epochs and results.is_file() and not start.rewound
    with failing_together(accelerator):
        check_ranks_agree(accelerator, config, start, finished=finished)
    if finished:
        accelerator.print(f"{run_dir}: already trained for {epochs} epochs")
        return load_results(results)
    with run_lock(run_dir) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            prepare_folder(config, plan.checkpoints, start)
            found = describe_environment(accelerator.device, accelerator.num_processes)
            shards = config.data.shards
            # For whoever measures the run from another folder, see `load_run_config`.
            where = str(shards.absolute()) if isinstance(shards, Path) else None
            note_start(run_dir / ENVIRONMENT, {**found, "shards": where})
        return _train(plan, accelerator)


def _train(plan: _Plan, accelerator: Accelerator) -> dict[str, float]:
    stop = StopRequest(has_peers=accelerator.num_processes > 1)
    with failing_together(accelerator), _tracker(plan, accelerator) as tracker:
        accelerator.print(tracker.location)
        if tracker.run:
            # Imported here: without W&B nothing waits for it.
            from vocdist.report.wandb_results import note_data_set

            note_data_set(tracker.run, plan.readers.train)
        trainer = _trainer_at_start(plan, accelerator, tracker, stop)
        # Until here there is nothing to save, and a signal may end the process.
        with stop, closing(trainer):
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
    config = replace(
        config, runtime=with_precision(config.runtime, begun.runtime if begun else None)
    )
    decided: TaskConfig = task_class(config.task).resolve(config, begun)
    return decided


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
    loaders = training_loaders(config, task, readers, accelerator)
    return Trainer(
        task=task,
        model=model,
        optimizer=optimizer,
        loaders=loaders,
        accelerator=accelerator,
        agreement=Agreement(accelerator, stop, config.runtime.collective_timeout_s),
        checkpoints=checkpoints,
        tracker=tracker,
        train=config.train,
        optim=config.optim,
        position=position,
        step=build_step(config, task, model, accelerator, loaders.train),
        report=RunReport(config.run.dir, task, *readers) if accelerator.is_main_process else None,
    )


def _fit(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    with readable_errors(config.run.dir):
        trainer.fit()
        return finish(config, trainer)


# Val images in the picture of what the model says.
PICTURED = 6
# Train samples that are measured for `Task.learn_from_train`: with all of VOC2012's the pass would
# take as long as half an epoch.
TRAIN_RECORDS = 4000


def finish(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    """Measure the best weights, and leave them with the results and pictures in the run folder.

    A collective.
    """
    position = trainer.position
    best = trainer.saver.load_best()
    epoch = position.best_epoch if best else position.epoch
    if not best:
        trainer.accelerator.print(
            f"{config.run.dir}: there is no whole best checkpoint: the weights of the last epoch "
            f"({epoch}) are kept instead, and results.json says so"
        )
    if trainer.task.wants_train_records:
        trainer.task.learn_from_train(_train_records(config, trainer))
    last = trainer.last_evaluation
    if best and last and epoch == position.epoch:
        # The same weights on the same images: only what was learned from train is new.
        records = last.records
        metrics = trainer.task.metrics(records)
    else:
        metrics, records = trainer.measure()
    metrics = {**metrics, "epoch": epoch}
    if trainer.accelerator.is_main_process:
        _save_weights(config, trainer)
        pictures = _draw(config, trainer)
        if trainer.report:
            trainer.report.write(records, metrics)
        if run := trainer.tracker.run:
            from vocdist.report.wandb_results import note_best, result_values

            others = result_values(config.run.dir, metrics)
            trainer.tracker.log_pictures(pictures, trainer.position.global_step, others)
            note_best(run, config.run.dir, metrics)
        # Written last: its presence says that the run is finished.
        save_results(metrics, config.run.dir / RESULTS)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _save_weights(config: TaskConfig, trainer: Trainer) -> None:
    """Write the weights with all that using them takes: the run folder is not needed for it."""
    task, classes = trainer.task, trainer.val_loader.dataset.reader.manifest.classes
    metadata = {"classes": json.dumps(classes), "config": json.dumps(plain_config(config))}
    metadata |= task.metadata()
    with replaced_when_done(config.run.dir / FINAL_WEIGHTS) as temporary:
        save_weights(task.model, temporary, metadata)


def _draw(config: TaskConfig, trainer: Trainer) -> dict[str, Path]:
    """Draw the curves, and what the model says of the first val images: files by name."""
    # Imported here: matplotlib takes a second, which no start waits for.
    from vocdist.report.curves import plot_curves

    pictures = {"curves": config.run.dir / "curves.png"}
    plot_curves(config.run.dir / METRICS, config.task, pictures["curves"])
    reader = trainer.val_loader.dataset.reader
    images = build_loader(config, reader, training=False)
    drawn = trainer.task.pictures(images, range(min(PICTURED, len(reader))))
    if drawn:
        name = trainer.task.pictures_name
        pictures[name] = config.run.dir / f"{name}.png"
        contact_sheet(drawn, columns=3).save(pictures[name])
    return pictures


def _train_records(config: TaskConfig, trainer: Trainer) -> list[Record]:
    """The records of up to `TRAIN_RECORDS` train samples, seen as an evaluation sees images."""
    reader, accelerator = trainer.train_loader.dataset.reader, trainer.accelerator
    loader = split_loader(
        config,
        trainer.task,
        reader,
        accelerator,
        training=False,
        images=trainer.train_loader.images,
    )
    # Evenly through the split, the same each time.
    chosen = np.linspace(0, len(reader) - 1, min(len(reader), TRAIN_RECORDS)).round().astype(int)
    own = ahead_of_use(loader.evaluation(chosen), accelerator.device)
    batches = map(loader.materialised, trainer.agreement.evaluation(own))
    return measure_samples(trainer.task, trainer.model, batches, chosen.tolist(), accelerator)
