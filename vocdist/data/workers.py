"""Loader processes: how many, how they hand batches over, how they end."""

import os
import signal
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from vocdist.data.batch import Batch, SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.feature_dataset import FeatureDataset
from vocdist.errors import UserError

# Batches that torch's DataLoader gives each worker ahead of use.
PREFETCHED = 2


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loaded(
    dataset: RequestedSamples | FeatureDataset,
    parts: Iterable[list[SampleRequest]],
    *,
    workers: int,
    pin_memory: bool,
) -> Iterator[Batch]:
    """A batch for each part, in order, computed by `workers` processes, or with 0 by this one.

    Raises:
        UserError: As the dataset raised it, in whatever process.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=parts,
        collate_fn=dataset.collate,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        pin_memory=pin_memory,
        # Its own: from torch's default generator it would take a number whenever it starts.
        generator=torch.Generator(),
        worker_init_fn=_leave_stopping_to_the_main_process,
    )
    # Any: what ends the worker processes has no public name.
    batches: Any = iter(loader)
    try:
        yield from batches
    except UserError as error:
        # What a worker raises arrives wrapped in its traceback; the last line is the message.
        last_line = str(error).strip().splitlines()[-1]
        raise UserError(last_line.rpartition("UserError: ")[2]) from None
    finally:
        if workers:
            # An error's traceback would keep them waiting for work, deaf to SIGTERM.
            batches._shutdown_workers()


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Ignore what a scheduler or a launcher sends to all processes of a run at once.

    The main process saves and leaves; a loader process that died of it first would be an error.
    """
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
