"""W&B over kills and restarts: one run, each row once, read back from its own offline files."""

import subprocess
import sys
from pathlib import Path

import pytest
from launch import Launched, environment, launch
from run_files import rows_of, timeless
from tracked_session import rows
from wandb_file import read_history, read_records


def session(run: Path, start: int, last: int, end: str) -> str:
    script = Path(__file__).with_name("tracked_session.py")
    done = subprocess.run(
        [sys.executable, str(script), str(run), str(start), str(last), end],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (0 if end == "finish" else -9), done.stderr
    return done.stdout


def without_wandbs_own(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in history]


def test_killed_again_and_again_each_row_is_there_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    session(run, start=-1, last=57, end="kill")
    held = len(read_history(run))
    # W&B may have lost rows: those behind the checkpoint (step 40) come again, the others too.
    assert held <= len(rows(1, 57))
    session(run, start=40, last=171, end="kill")
    said = session(run, start=160, last=200, end="finish")
    history = read_history(run)
    assert without_wandbs_own(history) == rows(1, 200)
    own_steps = [row["_step"] for row in history]
    assert own_steps == sorted(set(own_steps)), "W&B would drop rows whose step does not grow"
    files = sorted(run.rglob("offline-run-*/*.wandb"))
    ids = {
        record.run.run_id
        for path in files
        for record in read_records(path)
        if record.WhichOneof("record_type") == "run"
    }
    assert len(ids) == 1
    named = [Path(word).name for word in said.partition("wandb sync ")[2].rstrip(")\n").split()]
    holding = [path.parent.name for path in files if read_records(path)]
    assert named == holding
    assert len(holding) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("at_row", [7, 33, 61])
def test_a_killed_training_logs_each_row_once(
    at_row: int, demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = [
        f"data.shards={demo_shards}",
        f"run.dir={run}",
        "model.weights=none",
        "input.size=48",
        "train.epochs=8",
        "train.global_batch=4",
        "train.log_every=1",
        "train.save_every=5",
        "data.num_workers=0",
        "tracking.wandb=offline",
    ]
    running = Launched("train_classifier.py", *arguments)
    running.wait_until(lambda: len(rows_of(run)) >= at_row)
    running.kill()
    running.end()
    done = launch("train_classifier.py", *arguments)
    assert done.returncode == 0, done.stderr
    written = rows_of(run)
    history = [row for row in without_wandbs_own(read_history(run)) if "epoch" in row]
    assert [row["global_step"] for row in written] == [
        *(
            step
            for epoch in range(8)
            for step in [*range(9 * epoch + 1, 9 * epoch + 10), 9 * epoch + 9]
        )
    ]
    # Rows that were made twice may differ in how long they took, and in nothing else.
    assert [timeless(row) for row in history] == [timeless(row) for row in written]
