"""Runs that are asked to stop save, leave within seconds, and end as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from converted import converted
from forked import run_script
from launch import REPO, Launched, environment, launch
from run_files import rows_of, same_end, status_of

# A stop takes a step, a save and an exit: two to three seconds, but not on a busy test machine.
SECONDS = 90


def rpn(shards: Path, run: Path, *more: str) -> list[str]:
    return [
        f"data.shards={shards}",
        f"run.dir={run}",
        "model.classifier=none",
        "model.weights=none",
        "model.strides=[32]",
        "model.scales=[[16, 32]]",
        "features.cache=false",
        "input.short_side=96",
        "input.long_side=128",
        "input.flip=true",
        "train.epochs=3",
        "train.global_batch=4",
        "train.accumulate=2",
        "train.log_every=1",
        "data.num_workers=1",
        "tracking.wandb=disabled",
        "runtime.mixed_precision=fp32",
        *more,
    ]


def gone(processes: list[psutil.Process], within_s: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    assert not alive, f"still there after {within_s} s: {alive}"


@pytest.fixture(scope="module")
def undisturbed(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that nobody stops, one for each launch config; made when first asked for."""

    class Runs(dict[str, Path]):
        def __missing__(self, config: str) -> Path:
            self[config] = tmp_path_factory.mktemp("undisturbed") / config
            done = launch("train_rpn.py", *rpn(demo_shards, self[config]), config=config)
            assert done.returncode == 0, done.stderr
            return self[config]

    return Runs()


def stopped_in_training(
    shards: Path, run: Path, config: str, number: signal.Signals, *, group: bool
) -> None:
    running = Launched("train_rpn.py", *rpn(shards, run), config=config)
    running.wait_until(lambda: any(row["global_step"] == 5 for row in rows_of(run)))
    family = running.ranks() + running.loaders()
    asked = time.monotonic()
    if group:
        os.killpg(running.launcher.pid, number)
    else:
        running.launcher.send_signal(number)
    gone(family, within_s=SECONDS)
    _, output = running.end()
    status = status_of(run)
    assert status["state"] == "interrupted", output
    assert 5 <= status["global_step"] < 27
    assert status["saved_step"] == status["global_step"]
    assert rows_of(run)[-1]["global_step"] <= status["global_step"]
    assert f"interrupted at step {status['global_step']} by" in output
    print(f"{config} {number.name}: left in {time.monotonic() - asked:.1f} s")


def resumes_as_if_nothing_had_happened(
    shards: Path, run: Path, undisturbed: Path, config: str
) -> None:
    stopped_at = status_of(run)["global_step"]
    resumed = launch("train_rpn.py", *rpn(shards, run), "--resume", "auto", config=config)
    assert resumed.returncode == 0, resumed.stderr
    assert f"going on from {run}/checkpoints/step-{stopped_at:08d}" in resumed.stdout
    same_end(run, undisturbed)


def test_sigterm_to_a_launcher_of_two_saves_one_step(demo_shards: Path, tmp_path: Path) -> None:
    stopped_in_training(demo_shards, tmp_path / "run", "two_cpu", signal.SIGTERM, group=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "number", "group"),
    [
        # The launcher of one process dies of it and tells nobody.
        ("one_cpu", signal.SIGTERM, False),
        ("one_cpu", signal.SIGTERM, True),
        ("one_cpu", signal.SIGINT, True),
        ("one_cpu", signal.SIGUSR1, True),
        ("one_cpu", signal.SIGKILL, False),
        ("two_cpu", signal.SIGTERM, False),
        ("two_cpu", signal.SIGINT, True),
        ("two_cpu", signal.SIGTERM, True),
        # Not one of those that torchrun passes on: it dies, and its ranks notice.
        ("two_cpu", signal.SIGUSR1, False),
        ("two_cpu", signal.SIGKILL, False),
    ],
)
def test_whoever_is_told_to_stop_the_run_goes_on_later(
    config: str,
    number: signal.Signals,
    group: bool,
    demo_shards: Path,
    undisturbed: dict[str, Path],
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    stopped_in_training(demo_shards, run, config, number, group=group)
    resumes_as_if_nothing_had_happened(demo_shards, run, undisturbed[config], config)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["one_cpu", "two_cpu"])
def test_a_stop_while_waiting_for_data(
    config: str, demo_shards: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    running = Launched("train_rpn.py", *rpn(demo_shards, run), config=config)
    running.wait_until(lambda: len(rows_of(run)) >= 5 and running.loaders())
    # The last rank's loader stands still: that rank waits for it, and the other one for that rank.
    frozen = running.loaders()[-1]
    frozen.suspend()
    before = -1
    while len(rows_of(run)) != before:
        before = len(rows_of(run))
        time.sleep(2)
    family = running.ranks() + running.loaders()
    running.launcher.terminate()
    gone(family, within_s=SECONDS)
    running.end()
    assert status_of(run)["state"] == "interrupted"
    assert status_of(run)["global_step"] in (before, before - 1, before - 2)
    resumes_as_if_nothing_had_happened(demo_shards, run, undisturbed[config], config)


@pytest.fixture(scope="module")
def mostly_val(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 6 train and 39 val samples: whoever looks finds an evaluation under way."""
    return converted(demo_root, tmp_path_factory.mktemp("shards") / "mostly-val", ratio=0.14)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["one_cpu", "two_cpu"])
def test_a_stop_during_evaluation(config: str, mostly_val: Path, tmp_path: Path) -> None:
    long = ["train.epochs=2", "input.short_side=600", "input.long_side=800", "train.eval_batch=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    done = launch("train_rpn.py", *rpn(mostly_val, whole, *long), config=config)
    assert done.returncode == 0, done.stderr
    running = Launched("train_rpn.py", *rpn(mostly_val, run, *long), config=config)
    running.wait_until(lambda: any(row["global_step"] == 2 for row in rows_of(run)))
    time.sleep(1)
    family = running.ranks() + running.loaders()
    running.launcher.terminate()
    gone(family, within_s=SECONDS)
    _, output = running.end()
    status = status_of(run)
    assert (status["state"], status["epoch"], status["step"]) == ("interrupted", 0, 2), output
    assert not any("val/loss" in row for row in rows_of(run))
    resumed = launch("train_rpn.py", *rpn(mostly_val, run, *long), config=config)
    assert resumed.returncode == 0, resumed.stderr
    same_end(run, whole)


@pytest.mark.slow
def test_without_a_launcher_the_exit_code_says_it(demo_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = rpn(demo_shards, run, "train.epochs=2000")
    script = [sys.executable, str(REPO / "scripts" / "train_rpn.py"), *arguments]
    alone = subprocess.Popen(script, cwd=REPO, env=environment(), stdout=subprocess.DEVNULL)
    while len(rows_of(run)) <= 3:
        assert alone.poll() is None
        time.sleep(0.01)
    alone.terminate()
    assert alone.wait(timeout=SECONDS) == 75
    done = run_script("train_rpn.py", *arguments, "train.epochs=1")
    assert done.returncode == 2  # other settings in the same folder


@pytest.mark.slow
def test_a_second_ctrl_c_leaves_at_once(demo_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    running = Launched("train_rpn.py", *rpn(demo_shards, run), config="two_cpu")
    running.wait_until(lambda: len(rows_of(run)) > 3)
    first, second = running.ranks()
    second.suspend()  # so that the first cannot agree with anybody
    os.kill(first.pid, signal.SIGINT)
    time.sleep(2)
    assert first.is_running()
    os.kill(first.pid, signal.SIGINT)
    gone([first], within_s=5)
    running.kill()
    _, output = running.end()
    assert "interrupted twice" in output
    assert status_of(run)["state"] == "running"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["killed", "stuck"])
def test_when_another_rank_is_gone_nobody_hangs(
    way: str, demo_shards: Path, undisturbed: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    patience = ["runtime.collective_timeout_s=8", "train.save_every=4"]
    running = Launched("train_rpn.py", *rpn(demo_shards, run, *patience), config="two_cpu")
    running.wait_until(lambda: len(rows_of(run)) > 6)
    ranks = running.ranks()
    if way == "killed":
        ranks[1].kill()  # whereupon torchrun sends SIGTERM to the first
    else:
        ranks[1].suspend()
    gone(ranks[:1], within_s=8 + SECONDS)
    if way == "stuck":
        ranks[1].kill()
    code, output = running.end()
    assert code != 0
    assert "error (rank 0): another process of this run has ended or does not answer" in output
    assert status_of(run)["state"] == "lost"
    resumed = launch("train_rpn.py", *rpn(demo_shards, run, *patience), config="two_cpu")
    assert resumed.returncode == 0, resumed.stderr
    same_end(run, undisturbed["two_cpu"])
