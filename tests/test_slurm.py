"""The batch script for SLURM: sound as a shell script, and trained with, less the scheduler."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch import REPO, environment
from run_files import rows_of, same_end, status_of

SCRIPTS = sorted((REPO / "docs" / "slurm").glob("*.sh"))
BIN = Path(sys.executable).parent

# The scheduler's part, on one machine: srun starts the command and passes SIGTERM on to it.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
SLURM_NODEID=0 "$@" &
task=$!
trap 'kill -TERM "$task"' TERM
wait "$task"; code=$?
while kill -0 "$task" 2>/dev/null; do wait "$task"; code=$?; done
exit "$code"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
  show) echo 127.0.0.1 ;;
  requeue) echo "$2" >>"$REQUEUED" ;;
esac
"""


def test_there_is_a_script() -> None:
    assert [path.name for path in SCRIPTS] == ["train.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("checker", [["bash", "-n"], [str(BIN / "shellcheck")]], ids=["n", "check"])
def test_shells_find_nothing_wrong(checker: list[str], script: Path) -> None:
    done = subprocess.run([*checker, str(script)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.slow
def test_a_job_whose_time_is_up_goes_on_in_the_queue(demo_shards: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for name, content in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    requeued = tmp_path / "requeued"

    def job(folder: Path, restarts: int) -> subprocess.Popen[str]:
        arguments = [
            f"data.shards={demo_shards}",
            f"run.dir={folder}",
            "model.classifier=none",
            "model.weights=none",
            "model.strides=[32]",
            "model.scales=[[16, 32]]",
            "features.cache=false",
            "input.short_side=96",
            "input.long_side=128",
            "train.epochs=3",
            "train.global_batch=4",
            "train.log_every=1",
            "data.num_workers=1",
            "tracking.wandb=disabled",
            "runtime.mixed_precision=fp32",
            "runtime.device=cpu",
        ]
        return subprocess.Popen(
            ["bash", str(SCRIPTS[0]), "scripts/train_rpn.py", *arguments],
            cwd=REPO,
            env=environment()
            | {
                "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}",
                "REQUEUED": str(requeued),
                "SLURM_JOB_ID": "42",
                "SLURM_JOB_NODELIST": "node1",
                "SLURM_NNODES": "1",
                "SLURM_RESTART_COUNT": str(restarts),
                "PROCESSES_PER_NODE": "2",
                "MAIN_PROCESS_PORT": "0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    first = job(run, restarts=0)
    deadline = time.monotonic() + 300
    while len(rows_of(run)) < 5:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
        time.sleep(0.05)
    first.send_signal(signal.SIGUSR1)
    output, _ = first.communicate(timeout=200)
    assert status_of(run)["state"] == "interrupted", output
    assert (first.returncode, requeued.read_text()) == (0, "42\n"), output

    for folder in (run, whole):
        again = job(folder, restarts=1)
        output, _ = again.communicate(timeout=300)
        assert again.returncode == 0, output
    assert requeued.read_text() == "42\n"
    same_end(run, whole)
