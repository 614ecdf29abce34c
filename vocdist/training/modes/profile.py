"""Where a step's time goes, which setting to change, and torch's trace of it."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vocdist.config import TaskConfig
from vocdist.data.batch import Batch
from vocdist.data.workers import usable_cores
from vocdist.distributed.preemption import StopRequest
from vocdist.distributed.processes import build_accelerator, with_precision
from vocdist.runs.checkpoint import Checkpoints, Position
from vocdist.runs.folder import CHECKPOINTS
from vocdist.runs.tracking import NullTracker, Tracker
from vocdist.tasks.task import build_task, task_class
from vocdist.training.loaders import build_readers
from vocdist.training.loop import Trainer
from vocdist.training.run import build_trainer
from vocdist.training.step import Backward

PHASES = ("data wait", "forward", "backward", "optimizer", "other")


class PhaseTimer:
    """Seconds per phase, from the first call after `begin`; each ends by waiting for the device."""

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start at zero."""
        self._device, self._clock = device, clock
        self.begin()

    def begin(self) -> None:
        """Forget what was timed; the time starts with the next call, not within one."""
        self._spent = dict.fromkeys(PHASES, 0.0)
        self._started: float | None = None

    def seconds(self) -> dict[str, float]:
        """Seconds of each phase; `other` is what is left of the time since `begin`."""
        self._wait_for_device()
        now = self._clock()
        total = now - (now if self._started is None else self._started)
        return {**self._spent, "other": max(0.0, total - sum(self._spent.values()))}

    def call(self, phase: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, its time counted as `phase`."""
        # Work that was sent to the device before belongs to the phase that sent it.
        self._wait_for_device()
        asked = self._clock()
        begun = self._started = asked if self._started is None else self._started
        try:
            return function(*args, **kwargs)
        finally:
            self._wait_for_device()
            if self._started == begun:  # else it has begun anew meanwhile
                self._spent[phase] += self._clock() - asked

    def items(self, phase: str, iterator: Iterator[Any]) -> Iterator[Any]:
        """Pass an iterator's items on, the wait for each counted as `phase`."""
        while True:
            try:
                item = self.call(phase, next, iterator)
            except StopIteration:
                return
            yield item

    def _wait_for_device(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


class Timed:
    """Passes everything on to an object, and times the calls of some of its methods.

    Args:
        inner: The object.
        timer: Takes the times.
        calls: Method -> the phase its calls count as.
        iterators: Method -> the phase in which the items of what it returns are waited for.
    """

    def __init__(
        self,
        inner: Any,
        timer: PhaseTimer,
        calls: Mapping[str, str] | None = None,
        iterators: Mapping[str, str] | None = None,
    ) -> None:
        """Keep the parts."""
        self._inner, self._timer = inner, timer
        self._calls, self._iterators = calls or {}, iterators or {}

    def __getattr__(self, name: str) -> Any:
        """The object's own, perhaps wrapped."""
        value = getattr(self._inner, name)
        if name in self._calls:
            return lambda *args, **kwargs: self._timer.call(
                self._calls[name], value, *args, **kwargs
            )
        if name in self._iterators:
            return lambda *args, **kwargs: self._timer.items(
                self._iterators[name], iter(value(*args, **kwargs))
            )
        return value


# The first steps choose algorithms and fill queues; the last ones are traced.
WARM_UP, TIMED, TRACED = 2, 10, 3
TRACE, OPERATORS = "trace.json.gz", "operators.txt"


def profile_run(config: TaskConfig) -> dict[str, float]:
    """Time some training steps by phase, trace a few more; the share of each phase.

    Prints a table with a sentence of advice. The trace and a table of operators are written into
    `<run.dir>-profile`; no weights are kept.
    """
    samples = (WARM_UP + TIMED + TRACED) * config.train.global_batch
    limit = min(config.data.limit_train or samples, samples)
    config = replace(
        config,
        data=replace(config.data, limit_train=limit, limit_val=1),
        train=replace(config.train, epochs=1, log_every=2**31, save_every=None),
        # Inside a CUDA graph the parts of a step cannot be timed apart.
        runtime=replace(config.runtime, cuda_graph=False),
    )
    config = replace(config, runtime=with_precision(config.runtime))
    accelerator = build_accelerator(config.runtime)
    config = task_class(config.task).resolve(config)
    folder = config.run.dir.with_name(config.run.dir.name + "-profile")
    with NullTracker() as tracker:
        trainer = build_bare_trainer(config, accelerator, tracker)
        steps = trainer.train_loader.steps_per_epoch()
        cached = trainer.task.frozen_features(config) is not None
        timer = PhaseTimer(accelerator.device)
        with closing(trainer):
            seconds, timed_steps = _timed_epoch(trainer, timer, steps)
            _traced_steps(trainer, max(0, steps - TRACED), folder)
    total = sum(seconds.values())
    shares = {phase: spent / total for phase, spent in seconds.items()}
    if accelerator.is_main_process:
        _print_table(seconds, timed_steps, config.train.global_batch)
        print(advice(shares, config, accelerator.device.type, usable_cores(), cached=cached))
        print(f"{folder}: {TRACE} (open it at https://ui.perfetto.dev), {OPERATORS}")
    return shares


def advice(
    shares: Mapping[str, float], config: TaskConfig, device: str, cores: int, *, cached: bool
) -> str:
    """One sentence: what takes the time, and the setting that changes it."""
    size = task_class(config.task).size_setting
    if shares["data wait"] > 0.15:
        workers = config.data.num_workers
        words = f"{shares['data wait']:.0%} of the time is spent in waiting for data: "
        if cached:
            return words + (
                "cached features are read from the disk: name a features.folder on a faster one, "
                "or run where they fit into memory beside the run"
            )
        if workers < cores:
            return words + f"raise data.num_workers ({workers} of {cores} cores are used)"
        return words + (
            "all cores are busy with images: make shards of smaller ones (make_shards.py "
            "max_side=512)"
        )
    if shares["optimizer"] > 0.25:
        return (
            f"{shares['optimizer']:.0%} of the time goes into optimizer steps: raise "
            f"train.global_batch (and optim.lr with it), so that there are fewer"
        )
    busy = f"{shares['forward'] + shares['backward']:.0%} of the time is the model's own work: "
    if device == "cuda" and config.runtime.mixed_precision == "fp32":
        return busy + "try runtime.mixed_precision=bf16, then a larger train.global_batch"
    if device == "cpu":
        return busy + f"lower {size}, or use a GPU"
    return busy + f"a larger train.global_batch or a lower {size} is what is left to change"


def build_bare_trainer(config: TaskConfig, accelerator: Accelerator, tracker: Tracker) -> Trainer:
    """A trainer that begins anew and keeps nothing."""
    readers = build_readers(config)
    torch.manual_seed(config.train.seed)
    task = build_task(config, readers.train, pretrained=True)
    return build_trainer(
        config,
        task,
        readers,
        accelerator,
        checkpoints=Checkpoints(config.run.dir / CHECKPOINTS, config.train.keep),
        tracker=tracker,
        position=Position(global_batch=config.train.global_batch, manifest_hash=""),
        # Nobody listens to signals: they end the process.
        stop=StopRequest(has_peers=accelerator.num_processes > 1),
    )


def _timed_epoch(trainer: Trainer, timer: PhaseTimer, steps: int) -> tuple[dict[str, float], int]:
    """Seconds of each phase over the steps after the warm-up, and how many these were."""
    plain = (trainer.step, trainer.train_loader)
    take_step = trainer._optimizer_step
    warm_up = min(WARM_UP, steps - 1)
    done = 0

    def timed_step(batch: Batch) -> None:
        nonlocal done
        timer.call("optimizer", take_step, batch)
        done += 1
        if done == warm_up:
            timer.begin()

    accelerator = Timed(trainer.accelerator, timer, {"backward": "backward"})
    loader = trainer.train_loader

    def losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        made = timer.call("data wait", loader.materialised, batch)
        found: dict[str, Tensor] = timer.call("forward", trainer.task.losses, model, made)
        return found

    trainer.step = Backward(cast(Any, accelerator), trainer.model, losses)
    trainer.train_loader = cast(Any, Timed(plain[1], timer, iterators={"training": "data wait"}))
    # All that a step does after its gradients: clipping, checks, the update.
    setattr(trainer, "_optimizer_step", timed_step)  # noqa: B010 (mypy refuses the assignment)
    trainer.train_epoch()
    setattr(trainer, "_optimizer_step", take_step)  # noqa: B010
    trainer.step, trainer.train_loader = plain
    return timer.seconds(), steps - warm_up


def _traced_steps(trainer: Trainer, start: int, folder: Path) -> None:
    """The epoch's last steps again, under torch's profiler; the main process writes what it saw."""
    trainer.position = replace(trainer.position, epoch=0, step=start)
    main = trainer.accelerator.is_main_process
    activities = [ProfilerActivity.CPU]
    if trainer.accelerator.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) if main else nullcontext() as seen:
        trainer.train_epoch()
    if seen is not None:
        folder.mkdir(parents=True, exist_ok=True)
        seen.export_chrome_trace(str(folder / TRACE))
        table = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (folder / OPERATORS).write_text(table, encoding="utf-8")


def _print_table(seconds: Mapping[str, float], steps: int, global_batch: int) -> None:
    total = sum(seconds.values())
    table = Table(caption=f"{steps} steps, {steps * global_batch / total:.1f} images/s")
    for name in ("part of a step", "ms", "share"):
        table.add_column(name, justify="left" if name.startswith("part") else "right")
    for phase in PHASES:
        spent = seconds[phase]
        table.add_row(phase, f"{1000 * spent / steps:.1f}", f"{spent / total:.0%}")
    Console().print(table)
