"""Killed at any moment and run again: real processes, real signals."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from conversion_runs import check_no_half_file, is_running, run, start, wait_for, worker_pids

from vocdist.errors import UserError


@pytest.mark.parametrize(
    ("shards", "workers", "with_workers"),
    [(4, 2, True), (7, 2, False), pytest.param(1, 1, True, marks=pytest.mark.slow)],
)
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    small_root, tmp_path, undisturbed, shards, workers, with_workers, finish
):
    output = tmp_path / "test"
    process = start(small_root, output, f"workers={workers}")
    wait_for(output, shards, process)
    workers_alive = [] if with_workers or workers == 1 else worker_pids(process.pid)
    # Without its workers they live on for a moment, and must do no harm.
    kill = os.killpg if with_workers else os.kill
    kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    check_no_half_file(output, undisturbed)
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
def test_twenty_kills_at_random_moments(small_root, tmp_path, undisturbed, finish):
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
        check_no_half_file(output, undisturbed)
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


def test_another_name_does_not_change_the_shards_that_runs_know(
    small_root, small_shards, make, tmp_path, hashes
):
    output = shutil.copytree(small_shards, tmp_path / "test")
    before = hashes(output)
    assert make(small_root, output, name="other").name == "test"
    assert hashes(output) == before


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


def test_killed_just_before_the_manifest_it_goes_on(
    small_root, make, tmp_path, small_shards, hashes, monkeypatch, capsys
):
    output = tmp_path / "test"
    # As SIGKILL would leave it: all is there but the manifest, which is the last.
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("vocdist.shards.convert.save_manifest", _interrupted)
        make(small_root, output)
    assert {"rejected.jsonl", "_info.json"} <= {path.name for path in output.iterdir()}
    make(small_root, output, split_seed=7)
    said = f"{output}: 5 shards of an unfinished conversion of other data or with other settings"
    assert said in capsys.readouterr().err
    assert hashes(output) != hashes(small_shards)
    (output / "manifest.json").unlink()
    (output / ".progress.jsonl").touch()
    make(small_root, output)
    assert hashes(output) == hashes(small_shards)


def _interrupted(*arguments):
    raise KeyboardInterrupt


def test_a_folder_with_anything_else_is_refused_and_not_touched(small_root, make, tmp_path):
    output = tmp_path / "test"
    output.mkdir()
    (output / "train-000000.tar").write_text("not ours")
    with pytest.raises(UserError, match=r"not empty \(it holds train-000000\.tar\)"):
        make(small_root, output)
    assert [path.name for path in output.iterdir()] == ["train-000000.tar"]
    assert (output / "train-000000.tar").read_text() == "not ours"


def test_a_record_cut_in_its_last_line_costs_that_shard_only(
    small_root, tmp_path, undisturbed, finish
):
    output = tmp_path / "test"
    process = start(small_root, output, "workers=1")
    wait_for(output, 4, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    record = output / ".progress.jsonl"
    record.write_bytes(record.read_bytes()[:-20])
    assert finish(output, workers=2) == undisturbed
