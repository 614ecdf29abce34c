"""Running independent units of work on whatever joblib can reach."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import cache
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config

from vocdist.errors import UserError
from vocdist.shards.cluster import connected, first_line

Result = TypeVar("Result")


def run_tasks(
    function: Callable[..., Result],
    tasks: Iterable[tuple[Any, ...]],
    *,
    workers: int,
    engine: str = "loky",
) -> Iterator[Result]:
    """Call `function(*task)` for each task in worker processes; results come in order.

    Args:
        function: Importable by its name, as workers import it anew.
        tasks: Positional arguments of each call.
        workers: Processes; with 1 all is done in this one.
        engine: `loky`, or a cluster's (see `vocdist.shards.cluster`).

    Raises:
        UserError: The engine is not there, or a worker process died; what `function` raises is
            raised as it is.
    """
    with connected(engine, workers) as backend:
        with parallel_config(**backend.options):
            parallel = Parallel(
                n_jobs=workers,
                return_as="generator",
                # Results are small and tasks are not: one at a time keeps the order plain.
                batch_size=1,
                pre_dispatch="2*n_jobs",
                max_nbytes=None,
            )
        # Workers of other engines are not this process's children.
        parent = os.getpid() if engine == "loky" else None
        calls = (delayed(_call)(parent, function, *task) for task in tasks)
        try:
            with closing(parallel(calls)) as results:
                yield from results
        except backend.failures as error:
            raise UserError(
                f"a worker process was killed, {backend.advice} ({first_line(error)})"
            ) from None


def _call(parent: int | None, function: Callable[..., Result], *task: Any) -> Result:
    if parent not in (None, os.getpid()):
        _end_with(parent)
    return function(*task)


@cache
def _end_with(parent: int | None) -> None:
    """End this worker soon after its parent: joblib's would wait five minutes for more work."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
