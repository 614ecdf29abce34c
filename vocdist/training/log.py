"""What a training logs: losses, throughput, one live line on the terminal."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Never, TextIO

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from vocdist.data.batch import Batch
from vocdist.data.dataset import RequestedSamples
from vocdist.data.features import FeatureDataset
from vocdist.distributed.processes import gather_lists
from vocdist.errors import SharedError
from vocdist.runs.checkpoint import Position
from vocdist.runs.tracking import Tracker


class LossMeter:
    """Mean losses over the optimizer steps since the last `reset`.

    What is added is each part's `(per_sample * weights).sum()`, so a step's parts and ranks add up
    to the mean over its global batch. A step counts once it has ended, and not if it was skipped.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        """Start empty."""
        self._accelerator = accelerator
        self._open: dict[str, Tensor] = {}  # of the step under way
        self._sums: dict[str, Tensor] = {}
        self._steps = self._zero()

    def add(self, losses: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add one part's per-sample losses (B,) with their weights (B,)."""
        for name, values in losses.items():
            part = (values.detach().float() * weights).sum()
            self._open[name] = self._open[name] + part if name in self._open else part

    def end_step(self, skipped: Tensor) -> None:
        """Count the step under way unless `skipped`, () float32, is 1; the same on every rank."""
        for name, total in self._open.items():
            # Not by a factor: 0 * NaN is NaN.
            counted = total.masked_fill(skipped > 0, 0.0)
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted
        self._open = {}
        self._steps = self._steps + 1 - skipped

    def means(self) -> dict[str, float]:
        """Means over steps and ranks (a collective, and a wait); empty without a counted step."""
        steps = float(self._steps)
        if not steps:
            return {}
        totals = {
            name: float(self._accelerator.reduce(self._sums[name], reduction="mean"))
            for name in sorted(self._sums)
        }
        return {name: totals[name] / steps for name in self._sums}

    def reset(self) -> None:
        """Forget all steps that have ended."""
        self._sums, self._steps = {}, self._zero()

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self._accelerator.device)

    def state_dict(self) -> dict[str, Any]:
        """The sums of every rank, for a checkpoint (a collective).

        Each rank's own, and left as they are: what they add up to later depends, in its last digit,
        on where they were added up before.
        """
        own = {name: float(total) for name, total in self._sums.items()}
        return {"sums": gather_lists(self._accelerator, [own]), "steps": float(self._steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with this rank's sums or, on another number, with their mean."""
        of_ranks: list[dict[str, float]] = state["sums"]
        if len(of_ranks) == self._accelerator.num_processes:
            own = of_ranks[self._accelerator.process_index]
        else:
            own = {name: sum(r[name] for r in of_ranks) / len(of_ranks) for name in of_ranks[0]}
        self._sums = {name: self._zero() + total for name, total in own.items()}
        self._steps = self._zero() + state["steps"]


class StepClock:
    """Times the gaps between batches, over the steps since the last `read`."""

    def __init__(self) -> None:
        """Start now."""
        self.restart()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, counting the time spent in waiting for each."""
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            if batch.ends_step:
                self._samples += batch.step_samples
                self._steps += 1
            yield batch

    def read(self) -> dict[str, float]:
        """`perf/images_per_s` over all ranks, `perf/steps_per_s`, `perf/data_wait`; start anew.

        The last is the share of the time that was spent in waiting.
        """
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        rates = {
            "perf/images_per_s": self._samples / elapsed,
            "perf/steps_per_s": self._steps / elapsed,
            "perf/data_wait": self._waited / elapsed,
        }
        self.restart()
        return rates

    def restart(self) -> None:
        """Forget what was timed: call where steps begin after something else was done."""
        self._started = time.perf_counter()
        self._waited = 0.0
        self._samples = 0
        self._steps = 0


def gpu_memory(device: torch.device) -> dict[str, float]:
    """`perf/gpu_memory_gib`: the most that this process's tensors have taken so far, on CUDA."""
    if device.type != "cuda":
        return {}
    return {"perf/gpu_memory_gib": torch.cuda.max_memory_allocated(device) / 2**30}


_BAR = "{desc} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt}{postfix}"


class ProgressLine:
    """The line of the main process; on the others, and without a terminal, it writes nothing.

    It has no color, so there is none for NO_COLOR to turn off.

    Args:
        shown: Whether this is the main process.
        file: Where the line stands.
    """

    def __init__(self, *, shown: bool, file: TextIO | None = None) -> None:
        """Show nothing yet."""
        self._file = file or sys.stderr
        self._shown = shown and self._file.isatty()
        self._bar: tqdm[Never] | None = None

    @contextmanager
    def epoch(self, name: str, *, steps: int, done: int) -> Iterator[None]:
        """Show the steps of an epoch, of which `done` were made before."""
        with self._line(name, steps, done) as self._bar:
            yield
        self._bar = None

    def step(self) -> None:
        """Move on by one step."""
        if self._bar is not None:
            self._bar.update()

    def show(self, row: Mapping[str, float], *, steps_left: int) -> None:
        """Show a logged row: loss, rate, waiting, and the time that `steps_left` will take."""
        if self._bar is None:
            return
        loss = f", loss {row['train/loss']:.4f}" if "train/loss" in row else ""
        left = tqdm.format_interval(steps_left / max(row["perf/steps_per_s"], 1e-9))
        self._bar.set_postfix_str(
            f"{row['perf/images_per_s']:.0f} images/s, waiting for data "
            f"{row['perf/data_wait']:.0%}{loss}, {left} left"
        )

    def measuring(self, batches: Iterator[Batch], samples: int) -> Iterator[Batch]:
        """Pass batches on, showing how many of this rank's `samples` are done."""
        with self._line("validation", samples, 0) as bar:
            for batch in batches:
                yield batch
                bar.update(len(batch.indices))

    def _line(self, name: str, total: int, done: int) -> "tqdm[Never]":
        return tqdm(
            desc=name,
            total=total,
            initial=done,
            leave=False,
            file=self._file,
            disable=not self._shown,
            bar_format=_BAR,
            dynamic_ncols=True,
        )


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

    def log_step(self, position: Position, rates: Mapping[str, float], norm: Tensor | None) -> None:
        """Log a row of the steps since the last (a collective, and a wait for the device).

        `rates` are the learning rates of the last of them by their names.
        """
        means = self._recent_losses.means()
        self._recent_losses.reset()
        gradient = math.nan if norm is None else float(norm)
        row = {
            "global_step": position.global_step,
            "epoch": position.epoch + position.step / self._steps_per_epoch,
            **{f"train/{name}": mean for name, mean in means.items()},
            **{f"train/{name}": rate for name, rate in rates.items()},
            **({"train/grad_norm": gradient} if math.isfinite(gradient) else {}),
            **self._clock.read(),
            **gpu_memory(self._accelerator.device),
        }
        self._tracker.log(row)
        steps_left = self._epochs * self._steps_per_epoch - position.global_step
        self._progress.show(row, steps_left=steps_left)

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

    def log_epoch(
        self,
        position: Position,
        losses: Mapping[str, float],
        metrics: Mapping[str, float],
        *,
        headline: str,
        skipped_steps: int,
        dataset: RequestedSamples | FeatureDataset,
    ) -> str:
        """Log a row of the epoch before `position`, with its `metrics`; a line with `headline`."""
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
        return (
            f"epoch {position.epoch}/{self._epochs}  train loss {losses['loss']:.4f}  "
            f"val loss {metrics['loss']:.4f}  {headline}  {epoch_s:.1f} s"
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
