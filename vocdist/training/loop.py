"""The training loop: the only one, for both tasks, on any number of processes.

`fit` is the run, `train_epoch` an epoch, `_forward_backward` a part of a step (`step.py` computes
it), `_optimizer_step` its end. Everything random is a function of the position (seed, epoch,
sample, step), never of what was drawn before, so a run that goes on from a checkpoint does what
the undisturbed one would have done.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from vocdist.config.training import OptimConfig, TrainConfig
from vocdist.data.batch import Batch
from vocdist.data.loader import ahead_of_use
from vocdist.distributed.agreement import Agreement
from vocdist.distributed.processes import average_buffers, learning_batch_norms
from vocdist.errors import UserError
from vocdist.report.page import RunReport
from vocdist.runs.checkpoint import Checkpoints, Position
from vocdist.runs.tracking import Tracker
from vocdist.tasks.task import Task
from vocdist.training.evaluation import Evaluation, evaluate
from vocdist.training.guard import NON_FINITE, FiniteGuard
from vocdist.training.loaders import TrainingLoaders
from vocdist.training.log import RunLog
from vocdist.training.optim import (
    WeightAverage,
    gradient_norm,
    learning_rates,
    lr_factor,
    set_learning_rate,
)
from vocdist.training.saving import Saver
from vocdist.training.step import Step


@dataclass
class Trainer:
    """One run's parts, ready to go; `model` and `optimizer` are as `accelerator.prepare` left them.

    `position` says where the run is; it moves on with every step. `step` computes the parts of one,
    see `step.py`. `report` is the main process's.
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loaders: TrainingLoaders
    accelerator: Accelerator
    agreement: Agreement
    checkpoints: Checkpoints
    tracker: Tracker
    train: TrainConfig
    optim: OptimConfig
    position: Position
    step: Step
    report: RunReport | None = None

    def __post_init__(self) -> None:
        """Make the parts that are the loop's own."""
        self.train_loader, self.val_loader, _ = self.loaders
        # Of the epoch before `position`; None where this process has not made it.
        self.last_evaluation: Evaluation | None = None
        self._steps_per_epoch = self.train_loader.steps_per_epoch()
        if not self._steps_per_epoch:
            raise UserError(
                f"train.drop_last leaves no step: {len(self.train_loader.dataset)} samples give no "
                f"whole batch of {self.train.global_batch}: lower train.global_batch"
            )
        self._guard = FiniteGuard(
            self.accelerator,
            self.optimizer,
            statistics=[b for norm in learning_batch_norms(self.model) for b in norm.buffers()],
            stops=self.train.non_finite == "stop",
            path=self.checkpoints.folder.parent / NON_FINITE,
            key_of=lambda index: self.train_loader.dataset.reader.read(index).annotations.key,
        )
        self._average = WeightAverage(self.task.model, self.optim.ema_decay)
        self._log = RunLog(self.accelerator, self.tracker, self.train.epochs, self._steps_per_epoch)
        self.saver = Saver(
            self.task.model,
            self.optimizer,
            self._average,
            self._guard,
            self._log,
            self.accelerator,
            self.checkpoints,
        )

    def close(self) -> None:
        """End the loader processes."""
        self.loaders.processes.close()

    def fit(self) -> None:
        """Train from the position to the last epoch; measure and save after each."""
        while self.position.epoch < self.train.epochs:
            self.train_epoch()
            evaluation = self.last_evaluation = self.measure()
            self._end_epoch(evaluation.metrics)
            if self.report:
                self.report.refresh(evaluation.records)
        if self._guard.skipped:
            self.accelerator.print(self._guard.summary(self.position.global_step))

    def train_epoch(self) -> None:
        """Train from the position to the end of its epoch."""
        with self._log.training(self.position):
            self.model.train()
            self._guard.begin_step()
            for batch in self._batches():
                self._forward_backward(batch)
                if batch.ends_step:
                    self._optimizer_step(batch)
            self._guard.check_steps()

    def _batches(self) -> Iterator[Batch]:
        """This rank's parts of the epoch's steps, for as long as no rank was asked to stop."""
        parts = self.train_loader.training(self.position.epoch, start_step=self.position.step)
        own = self._log.timed(ahead_of_use(parts, self.accelerator.device))
        return self.agreement.training(own, self._steps_per_epoch - self.position.step)

    def _forward_backward(self, batch: Batch) -> None:
        losses = self.step.part(batch)
        self._guard.add_part(batch, losses["loss"])
        self._log.add_part(losses, batch.weights)

    def _optimizer_step(self, batch: Batch) -> None:
        factor = self._lr_factor()
        set_learning_rate(self.optimizer, factor)
        norm = gradient_norm(self.accelerator, self.model, clip_norm=self.train.clip_norm)
        skipped = self._guard.take_step(self.position.global_step + 1, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.position = self.position.after_step(batch.step_samples)
        self._average.update(self.position.global_step)
        self._log.end_step(skipped)
        steps = self.position.global_step
        logs = steps % self.train.log_every == 0
        if logs or self.accelerator.device.type != "cuda":
            self._guard.check_steps()
        if logs:
            self._log.log_step(self.position, learning_rates(self.optim, factor), norm)
        # The end of an epoch is saved after its evaluation.
        inside = self.position.step < self._steps_per_epoch
        if inside and self.train.save_every and steps % self.train.save_every == 0:
            self.saver.save(self.position, best=False)
        self._guard.begin_step()

    def _lr_factor(self) -> float:
        return lr_factor(
            self.optim.schedule,
            self.position.global_step,
            steps_per_epoch=self._steps_per_epoch,
            epochs=self.train.epochs,
            warmup_steps=self.optim.warmup_steps,
        )

    def measure(self) -> Evaluation:
        """Metrics over the whole val split, of the averaged weights where there are such.

        A collective.
        """
        average_buffers(self.accelerator, self.model)
        own = ahead_of_use(self.val_loader.evaluation(), self.accelerator.device)
        samples = len(self.val_loader.dataset)
        batches = self._log.measuring(self.agreement.evaluation(own), samples)
        shown = map(self.val_loader.materialised, batches)
        with self._average.applied():
            return evaluate(self.task, self.model, shown, samples, self.accelerator)

    def _end_epoch(self, metrics: dict[str, float]) -> None:
        losses = self._log.end_epoch_losses(self.position)
        # Where the metric is not defined, the lowest loss marks the best.
        best = metrics.get(self.task.best_metric, -metrics["loss"])
        self.position = self.position.after_epoch(best)
        line = self._log.log_epoch(
            self.position,
            losses,
            metrics,
            headline=self.task.headline_words(metrics),
            skipped_steps=self._guard.skipped,
            dataset=self.train_loader.dataset,
        )
        self.saver.save(self.position, best=self.position.best_epoch == self.position.epoch)
        self.accelerator.print(line)
