"""Shards fetched ahead of the batches that need them, by threads of the training process."""

import queue
from collections.abc import Iterator, Sequence
from contextlib import closing
from threading import Thread

from vocdist.data.batch import SampleRequest
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


def announced(
    parts: Sequence[list[SampleRequest]], reader: ShardReader, lookahead: int
) -> Iterator[list[SampleRequest]]:
    """Yield the parts, and have each shard fetched `lookahead` parts before its first use.

    Nothing starts before the first part is asked for: by then the loader's processes exist, and
    none of them is forked while a thread is at work.
    """
    first_use: dict[int, int] = {}
    for position, part in enumerate(parts):
        for request in part:
            first_use.setdefault(reader.shard_of(request.index), position)
    waiting = list(first_use.items())  # in the order of their use
    with closing(_Fetcher(reader)) as fetcher:
        for position, part in enumerate(parts):
            while waiting and waiting[0][1] <= position + lookahead:
                fetcher.ask(waiting.pop(0)[0])
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
