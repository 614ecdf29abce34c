"""Workers of this machine: results in order, and no worker outlives what it works for."""

import multiprocessing
import os
import time

import pytest

from vocdist.errors import UserError
from vocdist.shards.engine import run_tasks


def slower_first(number: int, count: int) -> tuple[int, int]:
    time.sleep(0.02 * (count - number))
    return number, os.getpid()


def fails_beside_a_sleeper(seconds: float) -> float:
    if not seconds:
        raise UserError("this one is wrong")
    time.sleep(seconds)
    return seconds


def forked() -> list[str]:
    """Processes of ours that run; joblib's own wait for more work, by design."""
    names = [process.name for process in multiprocessing.active_children()]
    return [name for name in names if not name.startswith("Loky")]


@pytest.mark.parametrize(
    ("engine", "workers"), [("local", 1), ("local", 2), ("local", 3), ("loky", 2)]
)
def test_results_come_in_order(engine, workers):
    tasks = [(number, 8) for number in range(8)]
    results = list(run_tasks(slower_first, tasks, workers=workers, engine=engine))
    assert [number for number, _ in results] == list(range(8))
    processes = {pid for _, pid in results}
    assert len(processes) <= workers
    assert (os.getpid() in processes) == (workers == 1)


def test_an_error_comes_as_it_is_and_ends_all_workers_at_once():
    began = time.monotonic()
    with pytest.raises(UserError, match="this one is wrong"):
        list(run_tasks(fails_beside_a_sleeper, [(0,), (60,), (60,), (60,)], workers=2))
    assert time.monotonic() - began < 20
    assert not forked()


def test_who_wants_no_more_results_leaves_no_worker():
    began = time.monotonic()
    results = run_tasks(fails_beside_a_sleeper, [(0.01,), (60,), (60,), (60,)], workers=2)
    assert next(results) == 0.01
    results.close()
    assert time.monotonic() - began < 20
    assert not forked()
