"""A rank's batches of a split, with remote shards fetched ahead of use."""

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from threading import Thread
from typing import NamedTuple

import numpy as np
import torch

from vocdist.data.batch import Batch, SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.features import FeatureDataset
from vocdist.data.geometry import Padding
from vocdist.data.order import (
    count_batches,
    epoch_order,
    global_batches,
    in_order_of,
    rank_parts,
    windowed_order,
)
from vocdist.data.resident import ImageStore, materialised
from vocdist.data.workers import PREFETCHED, LoaderProcesses, usable_cores
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader

FETCHES = 4
# A thread that is in the middle of a download when the epoch ends is left to itself.
JOIN_S = 2.0


def parts_ahead(parts: int, shards: int, window: int | None, behind: int) -> int:
    """How many parts before its first use a shard is to be fetched.

    Half a window, as parts of the window before may still be under way when a new one begins; less
    those by which the loader's workers are `behind` what was given out. Without windows all shards
    are wanted at once.
    """
    if window is None:
        return parts
    return max(1, int(parts * min(1.0, window / max(1, shards)) / 2) - behind)


class Parts(NamedTuple):
    """The parts of a pass, each made when it is asked for: an epoch has millions of requests.

    Attributes:
        number: How many.
        samples: Begins to yield the samples of each part, in order.
        requests: Begins to yield the requests of each part, in order.
    """

    number: int
    samples: Callable[[], Iterator[np.ndarray]]
    requests: Callable[[], Iterator[list[SampleRequest]]]


def announced(parts: Parts, reader: ShardReader, lookahead: int) -> Iterator[list[SampleRequest]]:
    """Yield the parts' requests, and have each shard fetched `lookahead` parts before its use.

    Nothing starts before the first part is asked for: by then the loader's processes exist, and
    none of them is forked while a thread is at work.
    """
    upcoming, looked_at, asked = parts.samples(), 0, set[int]()
    with closing(_Fetcher(reader)) as fetcher:
        for position, part in enumerate(parts.requests()):
            for samples in islice(upcoming, position + lookahead + 1 - looked_at):
                looked_at += 1
                for shard in map(reader.shard_of, samples.tolist()):
                    if shard not in asked:
                        asked.add(shard)
                        fetcher.ask(shard)
                # A shuffled epoch needs all of them within few parts of its millions.
                if len(asked) == reader.shards:
                    upcoming = iter(())
                    break
            yield part


class _Fetcher:
    """Threads that fetch shards in the order in which they are asked for."""

    def __init__(self, reader: ShardReader) -> None:
        self._reader = reader
        self._asked: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._closed = False
        # Daemons: a download must not keep the process from ending.
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(FETCHES)]
        for thread in self._threads:
            thread.start()

    def ask(self, shard: int) -> None:
        self._asked.put(shard)

    def close(self) -> None:
        self._closed = True
        for _ in self._threads:
            self._asked.put(None)
        for thread in self._threads:
            thread.join(JOIN_S)

    def _work(self) -> None:
        while (shard := self._asked.get()) is not None and not self._closed:
            try:
                self._reader.prefetch(shard)
            except (UserError, OSError):
                # Whoever reads the shard tries again, and has someone to tell.
                continue


class BatchLoader:
    """A rank's batches of one split, epoch by epoch.

    Args:
        dataset: The split's samples.
        global_batch: Samples of a step over all ranks.
        rank: This process.
        world_size: Number of processes.
        parts: Parts in which a training step is computed, each shared out over the ranks.
        num_workers: Loader processes; no more than there are cores are started.
        drop_last: See `global_batches`.
        padding: For images of varying size: batches are grouped and padded to one size, which
            depends on the global batch alone and so not on the number of ranks.
        pin_memory: Put batches where a CUDA device can fetch them while it computes.
        shuffle_shards: Shards that are shuffled together, see `windowed_order`; None: all of them,
            sample by sample.
        images: Where the dataset's batches are views of images that stay on the device, these.
    """

    def __init__(
        self,
        dataset: RequestedSamples | FeatureDataset,
        global_batch: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
        num_workers: int = 0,
        drop_last: bool = False,
        padding: Padding | None = None,
        pin_memory: bool = False,
        shuffle_shards: int | None = None,
        images: ImageStore | None = None,
    ) -> None:
        """Look up the image sizes where batches need them."""
        self.images = images
        self.dataset = dataset
        self.global_batch = global_batch
        self.rank = rank
        self.world_size = world_size
        self.parts = parts
        self.num_workers = min(num_workers, usable_cores())
        self.drop_last = drop_last
        self.pin_memory = pin_memory
        self._padding = padding
        self._processes: LoaderProcesses | None = None
        self._shuffle_shards = shuffle_shards
        # Scaled sizes, and what may share a batch; None where all inputs have one size.
        self._sizes: np.ndarray | None = None
        self._groups: np.ndarray | None = None
        if padding:
            self._sizes = padding.sizes(dataset.reader.image_sizes)
            self._groups = padding.groups(self._sizes)

    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch: the same on every rank, in every epoch."""
        samples = len(self.dataset)
        return count_batches(samples, self.global_batch, self.drop_last, self._groups)

    def training(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """This rank's parts of the steps `start_step, …` of an epoch.

        Starting in the middle costs nothing: the order is computed, not replayed.
        """
        batches = self._training_batches(epoch)[start_step:]
        return self._load(
            Parts(
                sum(min(self.parts, len(batch)) for batch in batches),
                lambda: (share for batch in batches for share, _ in self._shares(batch)),
                lambda: (part for batch in batches for part in self._training_parts(batch, epoch)),
            )
        )

    def evaluation(self, samples: np.ndarray | None = None) -> Iterator[Batch]:
        """Every sample once, over all ranks; a rank may have fewer batches than another.

        With `samples`, ascending indices, these alone. A rank takes whole batches: what a sample's
        figures are, to the last bit, may depend on the batch that it is computed in, and so must
        not depend on the number of ranks.
        """
        order = np.arange(len(self.dataset)) if samples is None else samples
        batches = global_batches(order, self.global_batch, groups=self._groups)
        if self._shuffle_shards:
            batches = in_order_of(order, batches)
        return self.grouped(batches[self.rank :: self.world_size])

    def chosen(self, indices: Sequence[int]) -> Iterator[Batch]:
        """Single samples by index, in that order, on every rank: for pictures."""
        return self.grouped([np.array([index]) for index in indices])

    def grouped(self, batches: Sequence[np.ndarray]) -> Iterator[Batch]:
        """These batches of sample indices, whole, on every rank that asks."""
        return self._load(
            Parts(
                len(batches),
                lambda: iter(batches),
                lambda: map(self._whole_part, batches),
            )
        )

    def batches_within(self, first: int, stop: int) -> list[np.ndarray]:
        """The samples `first` to `stop` in batches of one group each: a pure function of them."""
        groups = None if self._groups is None else self._groups[first:stop]
        positions = global_batches(np.arange(stop - first), self.global_batch, groups=groups)
        return [batch + first for batch in positions]

    def scaled_areas(self) -> np.ndarray:
        """(samples,) pixels of each image once it is scaled, for images of varying size."""
        assert self._sizes is not None, "without padding there are no scaled sizes"
        areas: np.ndarray = self._sizes.prod(axis=1)
        return areas

    def _training_batches(self, epoch: int) -> list[np.ndarray]:
        seed, window = self.dataset.seed, self._shuffle_shards
        if window:
            order = windowed_order(self.dataset.reader.shard_sizes, seed, epoch, window)
        else:
            order = epoch_order(len(self.dataset), seed, epoch)
        batches = global_batches(
            order,
            self.global_batch,
            drop_last=self.drop_last,
            groups=self._groups,
            seed=() if window else (seed, epoch),
        )
        # Shuffled, batches of one orientation would need shards of all windows.
        return in_order_of(order, batches) if window else batches

    def _training_parts(self, batch: np.ndarray, epoch: int) -> list[list[SampleRequest]]:
        """This rank's share of each part of a global batch, see `rank_parts`.

        DDP averages the ranks' gradients, so a weight of world_size / len(batch) makes their sum
        the gradient of the mean over the global batch, however unevenly it is shared.
        """
        weight, padded = self.world_size / len(batch), self._padded(batch)
        shares = self._shares(batch)
        return [
            [
                SampleRequest(
                    int(i),
                    epoch,
                    weight if counts else 0.0,
                    padded,
                    share is shares[-1][0],
                    len(batch),
                )
                for i in share
            ]
            for share, counts in shares
        ]

    def _shares(self, batch: np.ndarray) -> list[tuple[np.ndarray, bool]]:
        return rank_parts(batch, self.rank, self.world_size, self.parts)

    def _whole_part(self, batch: np.ndarray) -> list[SampleRequest]:
        padded = self._padded(batch)
        return [SampleRequest(int(i), epoch=0, padded=padded) for i in batch]

    def _padded(self, batch: np.ndarray) -> tuple[int, int] | None:
        if self._padding is None or self._sizes is None:
            return None
        return self._padding.padded(self._sizes[batch])

    def materialised(self, batch: Batch) -> Batch:
        """A batch as the model takes it: views of resident images become pixels, on the device."""
        return batch if self.images is None else materialised(batch, self.images)

    def share(self, processes: LoaderProcesses) -> None:
        """Have all batches loaded by these, which know the dataset; else each pass has its own."""
        self._processes = processes

    def _load(self, parts: Parts) -> Iterator[Batch]:
        processes = self._processes or LoaderProcesses(
            [self.dataset], workers=self.num_workers, pin_memory=self.pin_memory
        )
        return processes.batches(self.dataset, self._announced(parts))

    def _announced(self, parts: Parts) -> Iterator[list[SampleRequest]]:
        """The parts, with the shards they need fetched ahead where these are remote."""
        reader = self.dataset.reader
        reads = isinstance(self.dataset, RequestedSamples) and self.images is None
        if not reader.is_remote or not reads:
            return parts.requests()
        lookahead = parts_ahead(
            parts.number, reader.shards, self._shuffle_shards, PREFETCHED * self.num_workers
        )
        return announced(parts, reader, lookahead)


def ahead_of_use(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on `device`, each sent there before the one in front of it is used.

    With pinned memory the host then never waits for a copy.
    """
    upcoming: Batch | None = None
    for batch in batches:
        current, upcoming = upcoming, batch.to(device)
        if current is not None:
            yield current
    if upcoming is not None:
        yield upcoming
