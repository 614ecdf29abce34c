"""A file held by one process alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vocdist.errors import UserError
from vocdist.files.lock import HeldByAnotherError, NoLocksError, held_alone
from vocdist.shards.writer_lock import locked_for_writing
from vocdist.training.start import run_lock

HOLDS = """
import os, sys, time
from pathlib import Path
from vocdist.files.lock import held_alone
with held_alone(Path(sys.argv[1])) as descriptor:
    os.write(descriptor, b"host:7")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_file_is_held_by_one_which_is_named_until_it_dies(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(HeldByAnotherError, match="host:7"), held_alone(path):
            pass
        refused = pytest.raises(UserError, match=r"training is at work here \(host:7\)")
        with refused, run_lock(tmp_path):
            pass
        refused = pytest.raises(UserError, match=r"run is writing here \(host:7\)")
        with refused, locked_for_writing(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with held_alone(path):
        pass


def test_an_error_of_the_holder_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="mine"), held_alone(tmp_path / ".lock"):
        raise BlockingIOError("mine")
    with held_alone(tmp_path / ".lock"):
        pass


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoLocksError, match="No locks"), held_alone(tmp_path / ".lock"):
        pass
    for hold in (run_lock, locked_for_writing):
        refused = pytest.raises(UserError, match="cannot be locked .No locks available.: ")
        with refused, hold(tmp_path):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
