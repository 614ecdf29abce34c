"""Loader processes: how many, how they hand batches over, how they end."""

import os
import signal
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset

from vocdist.data.batch import Batch, SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.features import FeatureDataset
from vocdist.errors import UserError

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

# Batches that torch's DataLoader gives each worker ahead of use.
PREFETCHED = 2


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


GO_ON = "then start again: the run goes on from its last checkpoint"


@contextmanager
def loader_errors() -> Iterator[None]:
    """Turn what loader processes lack, or die of, into a `UserError`; all others pass."""
    try:
        yield
    except RuntimeError as error:
        if "shared memory" in str(error) or "shm" in str(error):
            raise UserError(
                f"this machine's shared memory (/dev/shm) is too small for the batches of the "
                f"loader processes: lower data.num_workers (0 needs none) or train.global_batch, "
                f"or give a container more of it (docker run --shm-size=8g), {GO_ON}"
            ) from None
        # torch raises it wherever the main process happens to be when the loader process ends.
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a loader process was killed, most often for want of memory "
            f"({str(error).splitlines()[0].strip()}): lower data.num_workers or "
            f"train.global_batch, {GO_ON}"
        ) from None


# Pipes, shared tensors and shards of two loader processes; where they run out, torch stands still.
FEWEST_FILES, ENOUGH_FILES = 256, 65536


def check_open_files() -> None:
    """Let this process open as many files as it may.

    Raises:
        UserError: They are too few for loader processes.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if 0 <= soft < wanted:
        with suppress(OSError, ValueError):  # some systems refuse what they say is their bound
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if 0 <= soft < FEWEST_FILES:
        raise UserError(
            f"this process may open {soft} files, too few for loader processes: run "
            f"ulimit -n 1024 in the shell before, or set data.num_workers=0"
        )


@dataclass(frozen=True)
class _Failed:
    """What takes a batch's place where it cannot be made."""

    error: UserError


class _Part(NamedTuple):
    """What a loader process is asked for: samples of one of its datasets."""

    dataset: int
    requests: list[SampleRequest]


class _Items(NamedTuple):
    """What it has found, to be collated by the same dataset."""

    dataset: int
    found: list[Any]


class _Datasets(Dataset[Any]):
    """Several datasets as one, whose `UserError` is an item: torch rewords those of processes."""

    def __init__(self, datasets: Sequence[RequestedSamples | FeatureDataset]) -> None:
        self._datasets = datasets

    def __getitems__(self, part: _Part) -> _Items | _Failed:
        dataset = self._datasets[part.dataset]
        try:
            if isinstance(dataset, RequestedSamples):
                return _Items(part.dataset, dataset.__getitems__(part.requests))
            return _Items(part.dataset, [dataset[request] for request in part.requests])
        except UserError as error:
            return _Failed(error)

    def collate(self, items: _Items | _Failed) -> Batch | _Failed:
        if isinstance(items, _Failed):
            return items
        return self._datasets[items.dataset].collate(items.found)


class _NextPass:
    """The parts of the next pass: what torch's DataLoader asks for when a pass begins."""

    def __init__(self) -> None:
        self.dataset = 0
        self.parts: Iterable[list[SampleRequest]] = ()

    def __iter__(self) -> Iterator[_Part]:
        number = self.dataset
        return (_Part(number, requests) for requests in self.parts)


class LoaderProcesses:
    """Processes that load the batches of one or several datasets, one pass after another.

    They start with the first pass and, if they are kept, serve all that follow: on systems that
    start processes anew each of them takes seconds to import what it needs. Close them at the end.

    Args:
        datasets: What they read from.
        workers: How many; with 0 this process does their work.
        pin_memory: Put batches where a CUDA device can fetch them while it computes.
        kept: Whether they live on after a pass.
    """

    def __init__(
        self,
        datasets: Sequence[RequestedSamples | FeatureDataset],
        *,
        workers: int,
        pin_memory: bool,
        kept: bool = False,
    ) -> None:
        """Nothing is started yet.

        Raises:
            UserError: The process may open too few files for that.
        """
        if workers:
            check_open_files()
        self._datasets = list(datasets)
        self._kept = kept and workers > 0
        self._busy = False
        self._next = _NextPass()
        joined = _Datasets(self._datasets)
        # Any: what ends the processes has no public name.
        self._loader: Any = DataLoader(
            joined,
            batch_sampler=self._next,  # type: ignore[arg-type]
            collate_fn=joined.collate,  # type: ignore[arg-type]
            num_workers=workers,
            prefetch_factor=PREFETCHED if workers else None,
            persistent_workers=self._kept,
            pin_memory=pin_memory,
            # Its own: from torch's default generator it would take a number whenever it starts.
            generator=torch.Generator(),
            worker_init_fn=_leave_stopping_to_the_main_process,
        )

    def batches(
        self,
        dataset: RequestedSamples | FeatureDataset,
        parts: Iterable[list[SampleRequest]],
    ) -> Iterator[Batch]:
        """A batch for each part of one of the datasets, in order.

        A pass may be broken off: what was loaded ahead is thrown away when the next begins. One
        that begins while another is under way has processes of its own.

        Raises:
            UserError: As the dataset raised it, in whatever process.
        """
        if self._busy:
            workers, pinned = self._loader.num_workers, self._loader.pin_memory
            own = LoaderProcesses([dataset], workers=workers, pin_memory=pinned)
            yield from own.batches(dataset, parts)
            return
        number = next(i for i, one in enumerate(self._datasets) if one is dataset)
        self._next.dataset, self._next.parts = number, parts
        batches: Any = iter(self._loader)
        self._busy, whole = True, False
        try:
            for batch in batches:
                if isinstance(batch, _Failed):
                    raise batch.error
                yield batch
            whole = True
        except GeneratorExit:
            whole = True
            raise
        finally:
            self._busy = False
            if isinstance(parts, Generator):
                parts.close()  # the threads that fetch for it
            if not (self._kept and whole):
                # An error's traceback would keep them waiting for work, deaf to SIGTERM.
                self._end(batches)

    def close(self) -> None:
        """End the processes; a pass after it starts them anew."""
        self._end(self._loader._iterator)

    def _end(self, batches: Any) -> None:
        self._loader._iterator = None
        if batches is not None and self._loader.num_workers:
            batches._shutdown_workers()


def _leave_stopping_to_the_main_process(worker: int) -> None:
    """Ignore what a scheduler or a launcher sends to all processes of a run at once.

    The main process saves and leaves; a loader process that died of it first would be an error.
    """
    for name in ("SIGTERM", "SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
