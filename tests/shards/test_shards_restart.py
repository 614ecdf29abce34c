"""Killed, starved, locked out: real processes, real signals, real limits."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vocdist.errors import UserError
from vocdist.shards.claim import check_claim, claimed

# Shards of two samples, so that there are twelve to be killed between.
SETTINGS = ("name=test", "samples_per_shard=2", "split_seed=3", "pictures=false")


def command(root: Path, output: Path, *settings: str) -> list[str]:
    script = ("scripts/make_shards.py", "configs/demo/shards.yaml")
    return [sys.executable, *script, f"source={root}", f"output={output}", *SETTINGS, *settings]


def run(root, output, *settings, **options):
    return subprocess.run(
        command(root, output, *settings), capture_output=True, text=True, **options
    )


def start(root, output, *settings):
    # A group of its own, so that its workers can be killed with it.
    return subprocess.Popen(
        command(root, output, *settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def finish(small_root, make, hashes):
    """Run the same conversion to its end, in this process: the hashes of what is then there."""

    def in_process(output: Path, workers: int = 1) -> dict[str, str]:
        make(small_root, output, samples_per_shard=2, split_seed=3, workers=workers)
        return hashes(output)

    return in_process


@pytest.fixture(scope="session")
def undisturbed(finish, tmp_path_factory):
    return finish(tmp_path_factory.mktemp("undisturbed") / "test")


def visible_files(output: Path) -> set[str]:
    return {p.name for p in output.iterdir() if p.name[0] != "."} if output.exists() else set()


def wait_for(output: Path, shards: int, process: subprocess.Popen) -> None:
    while (
        process.poll() is None and sum(n.endswith(".tar") for n in visible_files(output)) < shards
    ):
        time.sleep(0.0002)


def worker_pids(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [
        int(pid)
        for pid in children
        if b"popen_loky" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and b"tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def is_running(pid: int) -> bool:
    try:
        # A zombie has ended, and waits for whoever inherited it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def check_no_half_file(output: Path, undisturbed: dict[str, str], hashes) -> None:
    found = hashes(output) if output.exists() else {}
    for name in visible_files(output):
        assert found[name] == undisturbed[name], name


@pytest.mark.parametrize(
    ("shards", "workers", "with_workers"),
    [(4, 2, True), (7, 2, False), pytest.param(1, 1, True, marks=pytest.mark.slow)],
)
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    small_root, tmp_path, undisturbed, hashes, shards, workers, with_workers, finish
):
    output = tmp_path / "test"
    process = start(small_root, output, f"workers={workers}")
    wait_for(output, shards, process)
    workers_alive = [] if with_workers or workers == 1 else worker_pids(process.pid)
    # Without its workers they live on for a moment, and must do no harm.
    kill = os.killpg if with_workers else os.kill
    kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    check_no_half_file(output, undisturbed, hashes)
    kept = {p: p.stat().st_ino for p in output.glob("*.tar")}
    assert finish(output, workers=3 - workers) == undisturbed
    deadline = time.monotonic() + 10
    while any(map(is_running, workers_alive)):
        assert time.monotonic() < deadline, "workers outlive their run"
        time.sleep(0.05)
    if with_workers:
        # At most the one that each worker had renamed and not yet noted was written again.
        again = [path for path, inode in kept.items() if path.stat().st_ino != inode]
        assert len(again) <= workers


@pytest.mark.slow
def test_twenty_kills_at_random_moments(small_root, tmp_path, undisturbed, hashes, finish):
    rng = random.Random(0)
    began = time.monotonic()
    assert run(small_root, tmp_path / "timing", "workers=2").returncode == 0
    whole = time.monotonic() - began
    output = tmp_path / "test"
    killed = 0
    for _ in range(20):
        if (output / "manifest.json").exists() or rng.random() < 0.2:
            shutil.rmtree(output, ignore_errors=True)
        process = start(small_root, output, f"workers={rng.choice([1, 2, 3])}")
        time.sleep(rng.uniform(0.2, 1.0) * whole)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        check_no_half_file(output, undisturbed, hashes)
    assert killed > 10
    assert finish(output, workers=2) == undisturbed


def test_only_what_is_missing_or_damaged_is_made_again(
    small_root, small_shards, make, tmp_path, hashes
):
    output = shutil.copytree(small_shards, tmp_path / "test")
    damaged = ["train-000000.tar", "train-000001.tar", "train-000002.idx", "val-000000.idx"]
    with (output / damaged[0]).open("r+b") as shard:
        shard.seek(700)
        byte = shard.read(1)
        shard.seek(700)
        shard.write(bytes([byte[0] ^ 1]))
    (output / damaged[1]).unlink()
    (output / damaged[2]).unlink()
    (output / damaged[3]).write_text("v1.2 0\n")
    (output / "_info.json").unlink()
    before = {path.name: path.stat().st_ino for path in output.iterdir()}
    make(small_root, output, workers=2)
    assert hashes(output) == hashes(small_shards)
    again = {
        path.stem
        for path in output.iterdir()
        if path.suffix in (".tar", ".idx") and before.get(path.name) != path.stat().st_ino
    }
    assert again == {Path(name).stem for name in damaged}


def test_a_whole_folder_is_left_as_it_is(small_root, small_shards, make, tmp_path):
    output = shutil.copytree(small_shards, tmp_path / "test")
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in output.glob("*.*r")}
    make(small_root, output)
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in output.glob("*.*r")} == before


def test_other_data_or_settings_are_refused_in_a_finished_folder(
    small_root, small_shards, make, tmp_path, hashes
):
    output = shutil.copytree(small_shards, tmp_path / "test")
    with pytest.raises(UserError, match="other data or other settings.*choose another output"):
        make(small_root, output, split_seed=43)
    assert hashes(output) == hashes(small_shards)


def test_what_an_unfinished_run_of_other_settings_left_is_replaced(
    small_root, small_shards, make, tmp_path, hashes
):
    output = tmp_path / "test"
    process = start(small_root, output, "workers=1", "samples_per_shard=1")
    wait_for(output, 3, process)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    make(small_root, output)
    assert hashes(output) == hashes(small_shards)


def test_a_folder_with_anything_else_is_refused_and_not_touched(small_root, make, tmp_path):
    output = tmp_path / "test"
    output.mkdir()
    (output / "train-000000.tar").write_text("not ours")
    with pytest.raises(UserError, match=r"not empty \(it holds train-000000\.tar\)"):
        make(small_root, output)
    assert [path.name for path in output.iterdir()] == ["train-000000.tar"]
    assert (output / "train-000000.tar").read_text() == "not ours"


def test_a_record_cut_in_its_last_line_costs_that_shard_only(
    small_root, tmp_path, undisturbed, hashes, finish
):
    output = tmp_path / "test"
    process = start(small_root, output, "workers=1")
    wait_for(output, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    record = output / ".progress.jsonl"
    record.write_bytes(record.read_bytes()[:-20])
    assert finish(output, workers=2) == undisturbed


def test_the_second_of_two_runs_stops_and_the_lock_dies_with_its_process(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vocdist.shards.claim import claimed\n"
        "with claimed(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        refused = pytest.raises(UserError, match=f"another run is writing here .*:{holder.pid}:")
        with refused, claimed(tmp_path):
            pass
        holder.kill()
    with claimed(tmp_path) as claim:
        check_claim(tmp_path, claim)
        with pytest.raises(UserError, match="does not hold the folder any more"):
            check_claim(tmp_path, "of the killed run")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="does not hold"):
        check_claim(tmp_path, claim)


def test_a_second_command_on_the_folder_says_so_and_changes_nothing(
    small_root, tmp_path, undisturbed, hashes, finish
):
    output = tmp_path / "test"
    output.mkdir()
    with claimed(output):
        second = run(small_root, output, "workers=1")
        assert second.returncode == 2
        assert "another run is writing here" in second.stderr
        assert visible_files(output) == set()
    assert finish(output) == undisturbed


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_where_nothing_more_can_be_written_the_error_is_clear(
    small_root, tmp_path, workers, hashes, undisturbed, finish
):
    output = tmp_path / "test"
    done = run(small_root, output, f"workers={workers}", preexec_fn=limit_file_size)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {output}: cannot be written (File too")
    assert "Traceback" not in done.stderr
    check_no_half_file(output, undisturbed, hashes)
    assert not [path for path in output.iterdir() if path.suffix == ".tmp"]
    assert finish(output) == undisturbed


def test_a_full_disk(small_root, tmp_path, hashes, undisturbed, finish):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk])
    if mounted.returncode:
        pytest.skip("mounting a small disk needs more rights")
    try:
        done = run(small_root, disk / "test", "workers=2")
        assert done.returncode == 2
        assert "cannot be written (No space left on device): free some space" in done.stderr
        check_no_half_file(disk / "test", undisturbed, hashes)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert finish(disk / "test") == undisturbed
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("output", ["/proc/vocdist/shards", "/dev/null/shards"])
def test_a_folder_that_cannot_be_written(small_root, make, output):
    with pytest.raises(UserError, match=f"^{output}: cannot be written"):
        make(small_root, Path(output))


def test_a_killed_worker_ends_in_a_clear_error(small_root, tmp_path, undisturbed, hashes, finish):
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
    check_no_half_file(output, undisturbed, hashes)
    assert finish(output, workers=2) == undisturbed
