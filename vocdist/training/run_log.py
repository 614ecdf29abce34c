"""What a training says of itself: rows for the tracker, the live line, a line for each epoch."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from vocdist.data.batch import Batch
from vocdist.data.dataset import RequestedSamples
from vocdist.data.feature_dataset import FeatureDataset
from vocdist.errors import SharedError
from vocdist.training.checkpoint import Position
from vocdist.training.clock import StepClock, gpu_memory
from vocdist.training.meter import LossMeter
from vocdist.training.progress import ProgressLine
from vocdist.training.tracking import Tracker


class RunLog:
    """Sums losses, times steps, and tells of both.

    Args:
        accelerator: The run's.
        tracker: Takes the rows.
        epochs: Of the whole run.
        steps_per_epoch: Optimizer steps.
    """

    def __init__(
        self, accelerator: Accelerator, tracker: Tracker, epochs: int, steps_per_epoch: int
    ) -> None:
        """Start all sums at zero."""
        self._accelerator = accelerator
        self._tracker = tracker
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._epoch_losses = LossMeter(accelerator)
        self._recent_losses = LossMeter(accelerator)
        self._clock = StepClock()
        self._progress = ProgressLine(shown=accelerator.is_main_process)
        self._started = self._trained = time.perf_counter()

    @contextmanager
    def training(self, position: Position) -> Iterator[None]:
        """Within this context the rest of an epoch is trained."""
        self._started = time.perf_counter()
        self._clock.restart()
        name = f"epoch {position.epoch + 1}/{self._epochs}"
        with self._progress.epoch(name, steps=self._steps_per_epoch, done=position.step):
            yield
        self._trained = time.perf_counter()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass a rank's batches on, counting the time spent in waiting for each."""
        return self._clock.timed(batches)

    def measuring(self, batches: Iterator[Batch], samples: int) -> Iterator[Batch]:
        """Pass a rank's batches on, showing how much of `samples` (of all ranks) is done."""
        return self._progress.measuring(batches, samples // self._accelerator.num_processes)

    def add_part(self, losses: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add a part's per-sample losses (B,) with their weights (B,)."""
        for meter in (self._epoch_losses, self._recent_losses):
            meter.add(losses, weights)

    def end_step(self, skipped: Tensor) -> None:
        """Count the step under way unless `skipped`, () float32, is 1."""
        for meter in (self._epoch_losses, self._recent_losses):
            meter.end_step(skipped)
        self._progress.step()

    def tell_step(self, position: Position, lr: float, norm: Tensor | None) -> None:
        """Log a row of the steps since the last (a collective, and a wait for the device)."""
        means = self._recent_losses.means()
        self._recent_losses.reset()
        gradient = math.nan if norm is None else float(norm)
        row = {
            "global_step": position.global_step,
            "epoch": position.epoch + position.step / self._steps_per_epoch,
            **{f"train/{name}": mean for name, mean in means.items()},
            "train/lr": lr,
            **({"train/grad_norm": gradient} if math.isfinite(gradient) else {}),
            **self._clock.read(),
            **gpu_memory(self._accelerator.device),
        }
        self._tracker.log(row)
        steps_left = self._epochs * self._steps_per_epoch - position.global_step
        self._progress.tell(row, steps_left=steps_left)

    def end_epoch_losses(self, position: Position) -> dict[str, float]:
        """Mean losses of the epoch that ends at `position` (a collective); start anew.

        Raises:
            SharedError: Every step of it was skipped.
        """
        losses = self._epoch_losses.means()
        if not losses:
            raise SharedError(
                f"every step of epoch {position.epoch + 1} was skipped: lower optim.lr or set "
                f"train.clip_norm; the last checkpoint is good"
            )
        self._epoch_losses.reset()
        return losses

    def tell_epoch(
        self,
        position: Position,
        losses: Mapping[str, float],
        metrics: Mapping[str, float],
        *,
        headline: Sequence[str],
        skipped_steps: int,
        dataset: RequestedSamples | FeatureDataset,
    ) -> str:
        """Log a row of the epoch before `position`, with its `metrics`; the same in a line."""
        epoch_s = time.perf_counter() - self._started
        cache = dataset.cache if isinstance(dataset, RequestedSamples) else None
        self._tracker.log(
            {
                "global_step": position.global_step,
                "epoch": position.epoch,
                **{f"train/epoch_{name}": mean for name, mean in losses.items()},
                "train/skipped_steps": skipped_steps,
                **{f"val/{name}": value for name, value in metrics.items()},
                "perf/train_s": self._trained - self._started,
                "perf/epoch_s": epoch_s,
                **({} if cache is None else {"perf/cache_hits": cache.take_hit_share()}),
            }
        )
        figures = "  ".join(f"{name} {metrics[name]:.4f}" for name in headline)
        return (
            f"epoch {position.epoch}/{self._epochs}  train loss {losses['loss']:.4f}  "
            f"val loss {metrics['loss']:.4f}  {figures}  {epoch_s:.1f} s"
        )

    def state_dict(self) -> dict[str, Any]:
        """The sums of all ranks, for a checkpoint (a collective)."""
        return {
            "epoch_losses": self._epoch_losses.state_dict(),
            "recent_losses": self._recent_losses.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the sums of a checkpoint."""
        self._epoch_losses.load_state_dict(state["epoch_losses"])
        self._recent_losses.load_state_dict(state["recent_losses"])
