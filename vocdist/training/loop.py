"""The training loop: the only one, for both tasks, on any number of processes.

Everything random is a function of the position (seed, epoch, sample, step), never of what was drawn
before, so a run that goes on from a checkpoint does what the undisturbed run would have done.
"""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vocdist.config.training import OptimConfig, TrainConfig
from vocdist.data.dataset import Batch, RequestedSamples
from vocdist.data.loader import BatchLoader, ahead_of_use
from vocdist.errors import SharedError, UserError
from vocdist.training.accelerator import average_buffers, learning_batch_norms, raise_together
from vocdist.training.agreement import Agreement
from vocdist.training.averaging import WeightAverage
from vocdist.training.checkpoint import Checkpoints, Position
from vocdist.training.checkpoint_files import WEIGHTS, load_model, load_training
from vocdist.training.clock import StepClock, gpu_memory
from vocdist.training.evaluation import Evaluation, evaluate
from vocdist.training.meter import LossMeter
from vocdist.training.non_finite import NON_FINITE, FiniteGuard
from vocdist.training.progress import ProgressLine
from vocdist.training.run_report import RunReport
from vocdist.training.schedule import lr_factor
from vocdist.training.task import Task
from vocdist.training.tracking import Tracker


@dataclass
class Trainer:
    """One run's parts, ready to go; `model` and `optimizer` are as `accelerator.prepare` left them.

    `position` says where the run is; it moves on with every step. `report` is the main process's.
    """

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train_loader: BatchLoader
    val_loader: BatchLoader
    accelerator: Accelerator
    agreement: Agreement
    checkpoints: Checkpoints
    tracker: Tracker
    train: TrainConfig
    optim: OptimConfig
    position: Position
    report: RunReport | None = None

    def __post_init__(self) -> None:
        """Start the meters at zero."""
        self.saved: Position | None = None
        self._guard = FiniteGuard(
            self.accelerator,
            self.optimizer,
            statistics=[b for norm in learning_batch_norms(self.model) for b in norm.buffers()],
            stops=self.train.non_finite == "stop",
            path=self.checkpoints.folder.parent / NON_FINITE,
            key_of=lambda index: self.train_loader.dataset.reader.read(index).annotations.key,
        )
        self._epoch_losses = LossMeter(self.accelerator)
        self._recent_losses = LossMeter(self.accelerator)
        decay = self.optim.ema_decay
        self._average = None if decay is None else WeightAverage(self.task.model, decay)
        self._clock = StepClock()
        self._progress = ProgressLine(shown=self.accelerator.is_main_process)
        self._norm: Tensor | None = None
        self._steps_per_epoch = self.train_loader.steps_per_epoch()
        if not self._steps_per_epoch:
            raise UserError(
                f"train.drop_last leaves no step: {len(self.train_loader.dataset)} samples give no "
                f"whole batch of {self.train.global_batch}: lower train.global_batch"
            )

    def fit(self) -> None:
        """Train from the position to the last epoch; measure and save after each."""
        while self.position.epoch < self.train.epochs:
            started = time.perf_counter()
            self.train_epoch()
            trained = time.perf_counter()
            evaluation = self.measure()
            finished = time.perf_counter()
            self._end_epoch(evaluation.metrics, trained - started, finished - started)
            if self.report:
                self.report.refresh(evaluation.records)
        if self._guard.skipped:
            self.accelerator.print(
                f"{self._guard.skipped} of {self.position.global_step} steps were skipped, their "
                f"loss or gradient was not finite: {self.checkpoints.folder.parent / NON_FINITE}"
            )

    def measure(self) -> Evaluation:
        """Metrics over the whole val split, of the averaged weights where there are such.

        A collective.
        """
        average_buffers(self.accelerator, self.model)
        own = ahead_of_use(self.val_loader.evaluation(), self.accelerator.device)
        batches = self.agreement.evaluation(own)
        samples = len(self.val_loader.dataset)
        batches = self._progress.measuring(batches, samples // self.accelerator.num_processes)
        with self._averaged():
            return evaluate(self.task, self.model, batches, samples, self.accelerator)

    def train_epoch(self) -> None:
        """Train from the position to the end of its epoch."""
        self.model.train()
        parts = self.train_loader.training(self.position.epoch, start_step=self.position.step)
        steps = self._steps_per_epoch - self.position.step
        own = self._clock.timed(ahead_of_use(parts, self.accelerator.device))
        batches = self.agreement.training(own, steps)
        self._prepare_step()
        self._clock.restart()
        name = f"epoch {self.position.epoch + 1}/{self.train.epochs}"
        with self._progress.epoch(name, steps=self._steps_per_epoch, done=self.position.step):
            for batch in batches:
                self._forward_backward(batch)
                if batch.ends_step:
                    self._optimizer_step(batch)
                    self._progress.step()
        self._guard.settle()

    def _forward_backward(self, batch: Batch) -> None:
        # Only the last part of a step waits for the other ranks' gradients.
        last = batch.ends_step
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            losses = self.task.losses(self.model, batch)
            total = (losses["loss"] * batch.weights).sum()
            self.accelerator.backward(self._guard.differentiable(total))
        self._guard.add_part(batch, losses["loss"])
        for meter in (self._epoch_losses, self._recent_losses):
            meter.add(losses, batch.weights)

    def _optimizer_step(self, batch: Batch) -> None:
        self._norm = self._gradient_norm()
        skipped = self._guard.take_step(self.position.global_step + 1, self._norm)
        self.optimizer.zero_grad(set_to_none=True)
        for meter in (self._epoch_losses, self._recent_losses):
            meter.end_step(skipped)
        self.position = self.position.after_step(batch.step_samples)
        if self._average is not None:
            self._average.update(self.position.global_step)
        logs = self.position.global_step % self.train.log_every == 0
        if logs or self.accelerator.device.type != "cuda":
            self._guard.settle()
        if logs:
            self._log_step()
        every, step = self.train.save_every, self.position.step
        # The end of an epoch is saved after its evaluation.
        if every and self.position.global_step % every == 0 and step < self._steps_per_epoch:
            self.save(best=False)
        self._prepare_step()

    def _gradient_norm(self) -> Tensor | None:
        """Norm of the gradient over all ranks, which is then clipped; None where fp16 scales it."""
        parameters = list(self.model.parameters())
        norm: Tensor | None = None
        if self.train.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(parameters, self.train.clip_norm)
        elif self.accelerator.scaler is None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        return norm if self.accelerator.scaler is None else None

    def _prepare_step(self) -> None:
        """Set what the next step takes from its position: the learning rate."""
        self._guard.begin_step()
        step = self.position.global_step
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_factor(
                self.optim.schedule,
                step,
                steps_per_epoch=self._steps_per_epoch,
                epochs=self.train.epochs,
                warmup_steps=self.optim.warmup_steps,
            )

    def _log_step(self) -> None:
        means = self._recent_losses.means()
        self._recent_losses.reset()
        losses = {f"train/{name}": mean for name, mean in means.items()}
        norm = math.nan if self._norm is None else float(self._norm)
        row = {
            "global_step": self.position.global_step,
            "epoch": self.position.epoch + self.position.step / self._steps_per_epoch,
            **losses,
            "train/lr": self.optimizer.param_groups[0]["lr"],
            **({"train/grad_norm": norm} if math.isfinite(norm) else {}),
            **self._clock.read(),
            **gpu_memory(self.accelerator.device),
        }
        self.tracker.log(row)
        left = self.train.epochs * self._steps_per_epoch - self.position.global_step
        self._progress.tell(row, steps_left=left)

    def _end_epoch(self, metrics: dict[str, float], train_s: float, epoch_s: float) -> None:
        losses = self._epoch_losses.means()
        if not losses:
            raise SharedError(
                f"every step of epoch {self.position.epoch + 1} was skipped: lower optim.lr or set "
                f"train.clip_norm; the last checkpoint is good"
            )
        self._epoch_losses.reset()
        self.position = self.position.after_epoch(metrics[self.task.best_metric])
        epoch = self.position.epoch
        self.tracker.log(
            {
                "global_step": self.position.global_step,
                "epoch": epoch,
                **{f"train/epoch_{name}": mean for name, mean in losses.items()},
                "train/skipped_steps": self._guard.skipped,
                **{f"val/{name}": value for name, value in metrics.items()},
                "perf/train_s": train_s,
                "perf/epoch_s": epoch_s,
                **self._cache_figures(),
            }
        )
        self.save(best=self.position.best_epoch == epoch)
        figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in self.task.headline)
        self.accelerator.print(
            f"epoch {epoch}/{self.train.epochs}  train loss {losses['loss']:.4f}  "
            f"val loss {metrics['loss']:.4f}  {figures}  {epoch_s:.1f} s"
        )

    def _cache_figures(self) -> dict[str, float]:
        dataset = self.train_loader.dataset
        cache = dataset.cache if isinstance(dataset, RequestedSamples) else None
        return {} if cache is None else {"perf/cache_hits": cache.take_hit_share()}

    def save(self, *, best: bool) -> None:
        """Save the position and all that training goes on from (a collective)."""
        self._guard.settle()
        self.saved = self.position
        average_buffers(self.accelerator, self.model)
        for meter in (self._epoch_losses, self._recent_losses):
            meter.synchronize()
        failure = ""
        if self.accelerator.is_main_process:
            try:
                state = self._training_state()
                # What was measured is what a checkpoint's weights file holds.
                with self._averaged():
                    self.checkpoints.save(self.position, self.task.model, state, best=best)
            except UserError as error:
                failure = str(error)
        raise_together(self.accelerator, failure)

    def save_for_a_stop(self) -> None:
        """Save what is not saved yet (a collective)."""
        # Of a finished training the model by now holds the best weights, not the last.
        if self.saved != self.position:
            self._guard.abandon_step()
            self.save(best=False)

    def restore(self, checkpoint: Path) -> None:
        """Go on from a saved position; call on every rank."""
        self.saved = self.position
        training = load_training(checkpoint)
        self.load_weights(checkpoint / WEIGHTS, training["live"])
        self.optimizer.load_state_dict(training["optimizer"])
        if self.accelerator.scaler is not None and training["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(training["scaler"])
        self._guard.skipped = training["skipped_steps"]
        self._epoch_losses.load_state_dict(training["epoch_losses"])
        self._recent_losses.load_state_dict(training["recent_losses"])

    def load_weights(self, path: Path, live: dict[str, Tensor] | None = None) -> None:
        """Take over measured weights, and those that training goes on from (`live`)."""
        load_model(self.task.model, path)
        if self._average is not None:
            self._average.restore(live or {})

    def _averaged(self) -> AbstractContextManager[None]:
        """Within this context the model holds the weights that are measured and kept."""
        return nullcontext() if self._average is None else self._average.applied()

    def _training_state(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "live": None if self._average is None else self._average.live_parameters(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "skipped_steps": self._guard.skipped,
            "epoch_losses": self._epoch_losses.state_dict(),
            "recent_losses": self._recent_losses.state_dict(),
        }
