"""What goes wrong in a training process, by name: each runs in that process before the training."""

import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vocdist.tasks.classifier import ClassifierTask

Prepare = Callable[[Path], None]

# Samples of the train split whose loss or gradient is spoilt.
SPOILT = {7, 20}


def bad_loss(log: Path) -> None:
    """The loss of two samples is NaN, on the rank that computes them."""
    original = ClassifierTask.losses

    def losses(self, model, batch):  # type: ignore[no-untyped-def]
        found = original(self, model, batch)["loss"]
        spoilt = torch.tensor([index in SPOILT for index in batch.indices.tolist()])
        return {"loss": found.masked_fill(spoilt & model.training, torch.nan)}

    ClassifierTask.losses = losses  # type: ignore[method-assign]


class _SpoilsGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss, spoilt):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(spoilt)
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return gradient.masked_fill(ctx.saved_tensors[0], torch.inf), None


def bad_gradient(log: Path) -> None:
    """The loss of two samples is well, its gradient is not."""
    original = ClassifierTask.losses

    def losses(self, model, batch):  # type: ignore[no-untyped-def]
        found = original(self, model, batch)["loss"]
        spoilt = torch.tensor([index in SPOILT for index in batch.indices.tolist()])
        return {"loss": _SpoilsGradient.apply(found, spoilt)}

    ClassifierTask.losses = losses  # type: ignore[method-assign]


def small_files_after_a_checkpoint(log: Path) -> None:
    """Once there is a checkpoint, no file may grow beyond 100 kB, as on a disk that is full."""
    _once_there_is_a_checkpoint(
        log, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    )


def killed_worker(log: Path) -> None:
    """Once there is a checkpoint, a loader process dies as of the kernel's out-of-memory killer."""

    def kill() -> None:
        while True:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            if children:
                os.kill(int(children[0]), signal.SIGKILL)
                return

    _once_there_is_a_checkpoint(log, kill)


def _once_there_is_a_checkpoint(log: Path, act: Callable[[], None]) -> None:
    last = log.with_suffix(".run") / "checkpoints" / "last"

    def watch() -> None:
        while not last.is_file():
            time.sleep(0.002)
        act()

    threading.Thread(target=watch, daemon=True).start()
