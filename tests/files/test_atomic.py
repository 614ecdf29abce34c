"""Temporary names in folders that several hosts share, and the removal of leftovers."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vocdist.files.atomic import (
    LEFT_BEHIND_S,
    remove_temporaries,
    replaced_when_done,
    temporary_path,
    unique_name,
)

WRITES = """
import sys, time
from pathlib import Path
from vocdist.files.atomic import replaced_when_done
with replaced_when_done(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "part").write_text("x")
    print(temporary.name, flush=True)
    time.sleep(600)
"""


def writer(final: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(final)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    return process, final.parent / process.stdout.readline().strip()


def test_two_containers_with_one_host_name_and_process_id_do_not_share_a_name() -> None:
    # The random part alone tells such two apart.
    names = {temporary_path(Path("a/model.bin")) for _ in range(100)}
    assert len(names) == 100
    assert all(f"-{os.getpid()}-" in path.name for path in names)
    assert unique_name() != unique_name()


def test_a_long_name_has_a_temporary(tmp_path: Path) -> None:
    final = tmp_path / ("安" * 84)
    with replaced_when_done(final) as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == [final.name]


def test_leftovers_of_killed_writers_go_and_living_ones_stay(tmp_path: Path) -> None:
    process, theirs = writer(tmp_path / "step-1")
    try:
        with replaced_when_done(tmp_path / "mine") as mine:
            mine.write_text("x")
            remove_temporaries(tmp_path)
            assert mine.exists() and (theirs / "part").exists()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    remove_temporaries(tmp_path)
    assert os.listdir(tmp_path) == ["mine"]


@pytest.mark.parametrize(("hours", "stays"), [(1, True), (25, False)])
def test_another_hosts_go_when_they_have_not_grown_for_a_day(
    tmp_path: Path, hours: int, stays: bool
) -> None:
    # A dead process id of this machine, as another host may have it alive.
    process, folder = writer(tmp_path / "step-1")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    own = re.search(r"([\w-]+)-\d+-[0-9a-f]{12}\.tmp$", folder.name)
    assert own
    other = folder.rename(folder.with_name(folder.name.replace(own[1], "other-host-0a1b2c3d")))
    then = time.time() - hours * 3600
    assert LEFT_BEHIND_S == 24 * 3600
    os.utime(other, (0, 0))  # what is in it counts
    os.utime(other / "part", (then, then))
    remove_temporaries(tmp_path)
    assert other.exists() == stays


def test_one_of_an_earlier_process_with_this_ones_number_goes(tmp_path: Path) -> None:
    left = temporary_path(tmp_path / "a")
    left.write_text("x")
    remove_temporaries(tmp_path)
    assert not left.exists()
