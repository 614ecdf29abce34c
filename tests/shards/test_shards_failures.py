"""Locked out, out of space, out of workers: real locks, real limits, real kills."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conversion_runs import check_no_half_file, command, run, visible_files, wait_for, worker_pids

from vocdist.errors import UserError
from vocdist.shards.writer_lock import check_lock_token, locked_for_writing


def test_the_second_of_two_runs_stops_and_the_lock_dies_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from vocdist.shards.writer_lock import locked_for_writing\n"
        "with locked_for_writing(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(UserError, match=f"another run is writing here .*:{holder.pid}:")
        with refused, locked_for_writing(tmp_path):
            pass
        holder.kill()
    with locked_for_writing(tmp_path) as lock_token:
        check_lock_token(tmp_path, lock_token)
        with pytest.raises(UserError, match="does not hold the folder any more"):
            check_lock_token(tmp_path, "of the killed run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="does not hold"):
        check_lock_token(tmp_path, lock_token)


def test_a_second_command_on_the_folder_says_so_and_changes_nothing(
    voc_root, tmp_path, undisturbed, finish
):
    output = tmp_path / "test"
    output.mkdir()
    # At once: a second run that read the data first would stop for another reason.
    voc_root.add("bad", "no XML", b"")
    with locked_for_writing(output):
        second = run(voc_root.path, output, "workers=1")
        assert second.returncode == 2
        assert "another run is writing here" in second.stderr
        assert visible_files(output) == set()
    assert finish(output) == undisturbed


def test_nothing_is_left_where_nothing_could_be_converted(voc_root, tmp_path):
    voc_root.add("bad", "no XML", b"")
    output = tmp_path / "shards"
    done = run(voc_root.path, output)
    assert done.returncode == 2
    assert "nothing to convert" in done.stderr
    assert not output.exists()
    output.mkdir()
    (output / "mine.txt").touch()
    # Before the data set is read.
    assert "not empty (it holds mine.txt)" in run(voc_root.path, output).stderr
    assert [path.name for path in output.iterdir()] == ["mine.txt"]


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_where_nothing_more_can_be_written_the_error_is_clear(
    small_root, tmp_path, workers, undisturbed, finish
):
    output = tmp_path / "test"
    done = run(small_root, output, f"workers={workers}", preexec_fn=limit_file_size)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {output}: cannot be written (File too")
    assert "Traceback" not in done.stderr
    check_no_half_file(output, undisturbed)
    assert not [path for path in output.iterdir() if path.suffix == ".tmp"]
    assert finish(output) == undisturbed


def test_a_full_disk(small_root, tmp_path, undisturbed, finish):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("mounting a small disk needs more rights")
    try:
        done = run(small_root, disk / "test", "workers=2")
        assert done.returncode == 2
        assert "cannot be written (No space left on device): free some space" in done.stderr
        check_no_half_file(disk / "test", undisturbed)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert finish(disk / "test") == undisturbed
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_disk_too_full_for_the_claim(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with (
            pytest.raises(UserError, match="cannot be written"),
            locked_for_writing(tmp_path / "a"),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["/proc/vocdist/shards", "/dev/null/shards"])
def test_a_folder_that_cannot_be_written(small_root, make, output):
    with pytest.raises(UserError, match=f"^{output}: cannot be written"):
        make(small_root, Path(output))


def test_a_killed_worker_ends_in_a_clear_error(small_root, tmp_path, undisturbed, finish):
    output = tmp_path / "test"
    process = subprocess.Popen(
        command(small_root, output, "workers=2"), stderr=subprocess.PIPE, text=True
    )
    wait_for(output, 1, process)
    os.kill(worker_pids(process.pid)[0], signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 2, stderr
    assert "error: a worker process was killed" in stderr
    assert "Traceback" not in stderr
    check_no_half_file(output, undisturbed)
    assert finish(output, workers=2) == undisturbed
