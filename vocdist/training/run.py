"""A training run from its config to its results, and measuring a finished one."""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config_file import load_config, plain_config, save_config
from vocdist.data.loader import BatchLoader, ahead_of_use
from vocdist.errors import UserError
from vocdist.models.pixels import set_channels_last
from vocdist.report.curves import plot_curves
from vocdist.report.overlays import contact_sheet
from vocdist.shards.manifest import load_manifest, manifest_hash
from vocdist.training.accelerator import build_accelerator
from vocdist.training.build import (
    TaskConfig,
    build_loader,
    build_reader,
    build_task,
    resolve_features,
)
from vocdist.training.checkpoint import WEIGHTS, Checkpoints, Position, load_model, save_weights
from vocdist.training.evaluation import evaluate
from vocdist.training.loop import Trainer
from vocdist.training.overlays import proposal_overlays
from vocdist.training.rpn_task import RpnTask
from vocdist.training.run_folder import (
    CHECKPOINTS,
    CONFIG,
    FINAL_WEIGHTS,
    RESULTS,
    checkpoint_to_resume,
    load_results,
    position_to_resume,
    save_results,
)
from vocdist.training.task import Task
from vocdist.training.tracking import METRICS, NullTracker, Tracker, drop_rows_after

# Val images in the picture of proposals at the end of a run.
PICTURED = 6


def train(config: TaskConfig) -> dict[str, float]:
    """Train, or go on, or see that it is done; the best model's metrics, on every rank.

    Raises:
        UserError: Something the user can mend; it is looked for before any process group forms.
    """
    load_manifest(config.data.shards)
    if isinstance(config, RpnConfig):
        config = resolve_features(config)
    checkpoints = Checkpoints(config.run.dir / CHECKPOINTS, config.train.keep)
    checkpoint = checkpoint_to_resume(config, checkpoints)
    position = Position(
        global_batch=config.train.global_batch, manifest_hash=manifest_hash(config.data.shards)
    )
    if checkpoint:
        position = position_to_resume(checkpoint, position.manifest_hash, position.global_batch)
    # The same weights on every rank, whatever the launcher did to the generators.
    torch.manual_seed(config.train.seed)
    train_reader = build_reader(config, "train")
    task = build_task(config, train_reader, pretrained=checkpoint is None)

    accelerator = build_accelerator(config.runtime)
    say = accelerator.print
    if position.epoch == config.train.epochs and (config.run.dir / RESULTS).is_file():
        say(f"{config.run.dir}: already trained for {position.epoch} epochs; nothing to do")
        return load_results(config.run.dir / RESULTS)
    if accelerator.is_main_process:
        config.run.dir.mkdir(parents=True, exist_ok=True)
        save_config(config, config.run.dir / CONFIG)
        drop_rows_after(config.run.dir, position.global_step if checkpoint else -1)
    with _tracker(config, accelerator, position.wandb_run_id) as tracker:
        say(tracker.whereabouts)
        position = replace(position, wandb_run_id=tracker.run_id)
        trainer = _trainer(config, task, accelerator, checkpoints, tracker, position)
        if checkpoint:
            trainer.restore(checkpoint)
            say(f"going on from {checkpoint}: epoch {position.epoch + 1}, step {position.step}")
        trainer.fit()
        return _finish(config, trainer)


def evaluate_run(run_dir: Path, overrides: list[str]) -> tuple[TaskConfig, dict[str, float]]:
    """Measure a run's weights on its val split; overrides may name other shards or another rule.

    Raises:
        UserError: The folder is not a run, or its shards are gone.
    """
    config = load_run_config(run_dir, overrides)
    accelerator = build_accelerator(config.runtime)
    task = load_task(config, run_dir)
    _lay_out(config, task, accelerator)
    model = accelerator.prepare_model(task.model, evaluation_mode=True)
    loader = _loader(config, accelerator, training=False)
    batches = ahead_of_use(loader.evaluation(), accelerator.device)
    return config, evaluate(task, model, batches, len(loader.dataset), accelerator)


def load_run_config(run_dir: Path, overrides: list[str]) -> TaskConfig:
    """The config a run was trained with, as the type of its task.

    Raises:
        UserError: The folder is not a run.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise UserError(f"{run_dir}: not a run (no {CONFIG}); train one with scripts/train_*.py")
    # Only an RPN has anchors to match.
    is_rpn = "\nmatching:" in path.read_text(encoding="utf-8")
    if is_rpn:
        return load_config(RpnConfig, path, overrides)
    return load_config(ClassifierConfig, path, overrides)


def load_task(config: TaskConfig, run_dir: Path) -> Task:
    """A run's task with its final weights, or its best checkpoint's while it is still training."""
    task = build_task(config, build_reader(config, "train"), pretrained=False)
    weights = run_dir / FINAL_WEIGHTS
    best = Checkpoints(run_dir / CHECKPOINTS, keep=1).best()
    if not weights.is_file():
        if best is None:
            raise UserError(f"{run_dir}: no weights yet: let an epoch finish first")
        weights = best / WEIGHTS
    load_model(task.model, weights)
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


def _trainer(
    config: TaskConfig,
    task: Task,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
    tracker: Tracker,
    position: Position,
) -> Trainer:
    _lay_out(config, task, accelerator)
    learning = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
    model, optimizer = accelerator.prepare(
        task.model,
        torch.optim.AdamW(learning, lr=config.optim.lr, weight_decay=config.optim.weight_decay),
    )
    return Trainer(
        task=task,
        model=model,
        optimizer=optimizer,
        train_loader=_loader(config, accelerator, training=True),
        val_loader=_loader(config, accelerator, training=False),
        accelerator=accelerator,
        checkpoints=checkpoints,
        tracker=tracker,
        train=config.train,
        optim=config.optim,
        position=position,
    )


def _lay_out(config: TaskConfig, task: Task, accelerator: Accelerator) -> None:
    # MPS has computed wrong convolutions in NHWC: not there until it is shown right.
    on_mps = accelerator.device.type == "mps"
    set_channels_last(task.model, config.runtime.channels_last and not on_mps)


def _loader(config: TaskConfig, accelerator: Accelerator, *, training: bool) -> BatchLoader:
    return build_loader(
        config,
        build_reader(config, "train" if training else "val"),
        training=training,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )


def _finish(config: TaskConfig, trainer: Trainer) -> dict[str, float]:
    """Measure the best weights, and leave them with the results and pictures in the run folder."""
    best = trainer.checkpoints.best()
    if best is not None:
        load_model(trainer.task.model, best / WEIGHTS)
    metrics = {**trainer.measure(), "epoch": trainer.position.best_epoch}
    if trainer.accelerator.is_main_process:
        run_dir = config.run.dir
        save_weights(trainer.task.model, run_dir / FINAL_WEIGHTS)
        pictures = {"curves": run_dir / "curves.png"}
        plot_curves(run_dir / METRICS, pictures["curves"])
        if isinstance(trainer.task, RpnTask):
            pictures["proposals"] = run_dir / "proposals.png"
            samples = range(min(PICTURED, len(trainer.val_loader.dataset)))
            overlays = proposal_overlays(trainer.task, trainer.val_loader, samples)
            contact_sheet(overlays, columns=3).save(pictures["proposals"])
        trainer.tracker.log_pictures(pictures, trainer.position.global_step)
        # Written last: its presence says that the run is finished.
        save_results(metrics, run_dir / RESULTS)
    trainer.accelerator.wait_for_everyone()
    return metrics
