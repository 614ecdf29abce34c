"""Running independent units of work on whatever joblib can reach."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import closing
from functools import cache
from typing import Any, TypeVar

from joblib import Parallel, delayed

from vocdist.errors import UserError

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
        engine: The name of a joblib backend.

    Raises:
        UserError: A worker process died; what `function` raises is raised as it is.
    """
    parallel = Parallel(
        n_jobs=workers,
        backend=engine,
        return_as="generator",
        # Results are small and tasks are not: one at a time keeps the order of the work plain.
        batch_size=1,
        pre_dispatch="2*n_jobs",
        max_nbytes=None,
    )
    try:
        # Workers of other engines are not this process's children.
        parent = os.getpid() if engine == "loky" else None
        calls = (delayed(_call)(parent, function, *task) for task in tasks)
        with closing(parallel(calls)) as results:
            yield from results
    except BrokenExecutor as error:
        raise UserError(
            "a worker process was killed, most likely for want of memory: run the same command "
            f"again, with fewer workers if it comes back ({type(error).__name__})"
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
