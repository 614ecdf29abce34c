"""The workers of a conversion: processes of this machine, or those of a Ray or Dask cluster."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from joblib import Parallel, delayed, parallel_config

from vocdist.errors import UserError

# A worker that dies takes its work with it this often before the run gives up: the work may be
# what kills it. As many as Dask allows.
RETRIES = 3


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
        advice = (
            "most likely for want of memory: run the same command again, with fewer workers if it "
            "comes back"
        )
        yield Backend({"backend": "loky"}, (BrokenExecutor,), advice)
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
        engine: `loky`, or a cluster's (see `vocdist.shards.engine`).

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
