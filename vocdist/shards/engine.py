"""The workers of a conversion: processes of this machine, or those of a Ray or Dask cluster."""

import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, ProcessPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from vocdist.errors import UserError

# A worker that dies takes its work with it this often before the run gives up: the work may be
# what kills it. As many as Dask allows.
RETRIES = 3
OUT_OF_MEMORY = (
    "most likely for want of memory: run the same command again, with fewer workers if it comes "
    "back"
)


@dataclass(frozen=True, slots=True)
class Backend:
    """How joblib is to run tasks.

    Attributes:
        options: Of `joblib.parallel_config`.
        failures: What is raised when the workers fail, rather than the work.
        advice: What to do then.
    """

    options: Mapping[str, Any]
    failures: tuple[type[Exception], ...]
    advice: str = "or its cluster is gone: run the same command again, which goes on where it was"


@contextmanager
def connected(engine: str, workers: int) -> Iterator[Backend]:
    """Reach the engine's workers, starting them where there is no cluster.

    Raises:
        UserError: The engine is not installed, or its cluster cannot be reached or is too small.
    """
    if engine == "loky":
        yield Backend({"backend": "loky"}, (BrokenExecutor,), OUT_OF_MEMORY)
        return
    package, connect = {"ray": ("ray", _ray), "dask": ("distributed", _dask)}[engine]
    try:
        import_module(package)
    except ImportError as error:
        raise UserError(
            f"engine={engine} is not installed ({error}): pip install 'vocdist[{engine}]'"
        ) from None
    with connect(workers) as backend:
        yield backend


def first_line(error: BaseException) -> str:
    """An error in a line: those of clusters run over many."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _ray(workers: int) -> Iterator[Backend]:
    import ray
    from joblib import register_parallel_backend
    from ray.exceptions import RayError
    from ray.util.joblib.ray_backend import RayBackend

    class _RayBackend(RayBackend):  # type: ignore[misc]
        # Its results come through callbacks, all that a generator of results needs.
        supports_return_generator = True
        _pool: Any = None

        def terminate(self) -> None:
            """Kill the actors: asked to end, as by `close`, they look like failures to Ray."""
            if self._pool is not None:
                self._pool._closed = True
                self._pool.terminate()
                self._pool = None
            super().terminate()

    register_parallel_backend("ray", _RayBackend)
    address = os.environ.get("RAY_ADDRESS")
    if not ray.is_initialized():
        # Nothing is to be reported to its makers, unless the user says so.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here = {} if address else {"num_cpus": workers, "include_dashboard": False}
        with _reaching("ray", f"RAY_ADDRESS={address}"):
            host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
            if colon:
                # Ray would try for minutes.
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **here)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if workers > cpus:
        raise UserError(f"workers={workers} on a Ray cluster of {cpus} CPUs: pass workers={cpus}")
    # Hardly a CPU of its own: an actor whose machine is gone must find room on another. None at
    # all, and Ray does not spread them.
    actor = {"num_cpus": 0.01, "scheduling_strategy": "SPREAD"}
    actor |= {"max_restarts": RETRIES, "max_task_retries": RETRIES}
    yield Backend({"backend": "ray", "ray_remote_args": actor}, (RayError,))


@contextmanager
def _dask(workers: int) -> Iterator[Backend]:
    import dask
    from distributed import Client
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    address = dask.config.get("scheduler-address", None)
    here = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with _reaching("dask", f"DASK_SCHEDULER_ADDRESS={address}"):
        client = Client(address) if address else Client(**here)
    failures = (KilledWorker, CancelledError, CommClosedError, TimeoutError)
    with client:
        yield Backend({"backend": "dask"}, failures)


@contextmanager
def _reaching(engine: str, address: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of as many types as there are ways to fail
        raise UserError(
            f"engine={engine}: its cluster cannot be reached ({first_line(error)}): check {address}"
        ) from None


Result = TypeVar("Result")


def run_tasks(
    function: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    *,
    workers: int,
    engine: str = "local",
) -> Iterator[Result]:
    """Call `function(*task)` for each task in worker processes; results come in order.

    Args:
        function: Importable by its name, as workers may import it anew.
        tasks: Positional arguments of each call.
        workers: Processes; with 1 all is done in this one, unless the engine is a cluster's.
        engine: `local`, `loky`, or a cluster's (see `ShardsConfig`).

    Raises:
        UserError: The engine is not there, or a worker process died; what `function` raises is
            raised as it is.
    """
    if engine == "local" and workers == 1:
        return (function(*task) for task in tasks)
    if engine == "local" and sys.platform == "linux":
        return _run_forked(function, tasks, workers)
    return _run_by_joblib(function, tasks, workers, "loky" if engine == "local" else engine)


def _run_forked(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[Result]:
    """Workers that are forked have all that is imported here at once; others take a second each.

    Not on macOS, whose system libraries do not bear it, and Windows, which has no fork.
    """
    alive, held = Pipe(duplex=False)
    try:
        with ProcessPoolExecutor(workers, get_context("fork"), _end_with, (alive, held)) as pool:
            try:
                # Of Python 3.12 and later, since NumPy's BLAS has threads; no worker uses them.
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "This process .* is multi-threaded")
                    futures = deque(pool.submit(function, *task) for task in tasks)
                while futures:
                    yield futures.popleft().result()
            except BaseException:
                # The workers end now: the pool would wait for the tasks that they have begun.
                held.close()
                raise
    except BrokenExecutor as error:
        raise _killed(error, OUT_OF_MEMORY) from None
    finally:
        held.close()
        alive.close()


def _end_with(alive: Connection, held: Connection) -> None:
    """End this worker, whatever it does, when its parent lets go of `held`, by dying for example.

    The pool's own workers would wait forever for more work.
    """
    held.close()
    # The parent's to answer, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What was there before is not looked at again by this process's garbage collection.
    gc.freeze()

    def follow() -> None:
        with suppress(EOFError, OSError):
            alive.recv_bytes()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run_by_joblib(
    function: Callable[..., Result], tasks: Sequence[tuple[Any, ...]], workers: int, engine: str
) -> Iterator[Result]:
    with connected(engine, workers) as backend:
        # Imported here, as it takes a quarter of a second.
        from joblib import Parallel, delayed, parallel_config

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
            raise _killed(error, backend.advice) from None


def _killed(error: BaseException, advice: str) -> UserError:
    return UserError(f"a worker process was killed, {advice} ({first_line(error)})")


def _call(parent: int | None, function: Callable[..., Result], *task: Any) -> Result:
    if parent not in (None, os.getpid()):
        _end_with_pid(parent)
    return function(*task)


@cache
def _end_with_pid(parent: int | None) -> None:
    """End this worker soon after its parent: joblib's would wait five minutes for more work."""

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
