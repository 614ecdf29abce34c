"""Loader processes: how many, how they hand batches over, how they end."""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from vocdist.data.batch import Batch, SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.features import FeatureDataset
from vocdist.errors import UserError

# Batches that torch's DataLoader gives each worker ahead of use.
PREFETCHED = 2


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class _Failed:
    """What takes a batch's place where it cannot be made."""

    error: UserError


class _ErrorsAsItems(Dataset[Any]):
    """A dataset whose `UserError` is an item: what a loader process raises, torch rewords."""

    def __init__(self, dataset: RequestedSamples | FeatureDataset) -> None:
        self._dataset = dataset

    def __getitems__(self, requests: list[SampleRequest]) -> list[Any] | _Failed:
        try:
            if isinstance(self._dataset, RequestedSamples):
                return self._dataset.__getitems__(requests)
            return [self._dataset[request] for request in requests]
        except UserError as error:
            return _Failed(error)

    def collate(self, items: list[Any] | _Failed) -> Batch | _Failed:
        return items if isinstance(items, _Failed) else self._dataset.collate(items)


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
    wrapped = _ErrorsAsItems(dataset)
    loader = DataLoader(
        wrapped,
        batch_sampler=parts,
        collate_fn=wrapped.collate,
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
        for batch in batches:
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch
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
