import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forked import start_ranks
from launch import CLASSIFIER, REPO, environment
from wandb_file import read_history, read_records

from vocdist.errors import UserError
from vocdist.runs.tracking import METRICS, NullTracker, Tracker, drop_rows_after

ROWS = [{"global_step": step, "epoch": step / 10, "train/loss": 1 / step} for step in (10, 20, 30)]


def test_rows_reach_the_file_and_a_real_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is logged in: no key, and a netrc of ours without one.
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    run = tmp_path / "run"
    run.mkdir()
    with Tracker(run, mode="auto", project="p", config={"train": {"epochs": 3}}) as tracker:
        assert "wandb sync" in tracker.location
        run_id = tracker.run_id
        for row in ROWS:
            tracker.log(row)
    written = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    assert written == ROWS
    history = read_history(run)
    assert [{key: row[key] for key in ROWS[0]} for row in history] == ROWS
    (path,) = run.rglob("*.wandb")
    (begun,) = [r.run for r in read_records(path) if r.WhichOneof("record_type") == "run"]
    assert (begun.run_id, begun.project, begun.display_name) == (run_id, "p", "run")
    config = {"/".join(u.nested_key) or u.key: u.value_json for u in begun.config.update}
    assert json.loads(config["train"]) == {"epochs": 3}


def test_wandbs_own_variables_are_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "fast"))
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("WANDB_NAME", "second try")
    run = tmp_path / "run"
    run.mkdir()  # and $WANDB_DIR is made
    with Tracker(run, mode="auto", project=None, config={}) as tracker:
        tracker.log(ROWS[0])
        run_id = tracker.run_id
    # What was sent is found there, and not sent again.
    with Tracker(run, mode="auto", project="set", config={}, run_id=run_id) as tracker:
        tracker.log(ROWS[1])
        assert tracker.run is not None and tracker.run.project == "set"
    assert len(list((tmp_path / "fast").rglob("*.wandb"))) == 2
    assert not list(run.rglob("*.wandb"))
    steps = [row["global_step"] for row in read_history(tmp_path / "fast")]
    assert sorted(steps) == [10, 20]
    (first, _) = sorted((tmp_path / "fast").rglob("*.wandb"))
    (begun,) = [r.run for r in read_records(first) if r.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.display_name) == ("mine", "second try")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    with Tracker(run, mode="auto", project=None, config={}) as tracker:
        assert tracker.run is None


def with_an_impossible_key(log: Path) -> None:
    os.environ["WANDB_API_KEY"] = "notakey"


@pytest.mark.parametrize("mode", ["auto", pytest.param("online", marks=pytest.mark.slow)])
def test_an_api_key_that_cannot_be_one_ends_a_training_in_one_line(
    mode: str, demo_shards: Path, tmp_path: Path
) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    settings = [f"data.shards={demo_shards}", f"run.dir={run}", *CLASSIFIER]
    settings += ["train.epochs=1", f"tracking.wandb={mode}"]
    (process,) = start_ranks("classifier", settings, log, prepare=with_an_impossible_key)
    process.join(120)
    said = (log / f"{process.pid}.out").read_text()
    assert process.exitcode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    assert "does not take this API key" in line and "tracking.wandb=offline" in line
    assert "Traceback" not in said and "notakey" not in said
    assert not (run / METRICS).exists(), "it is found before the first step"


def test_no_key_is_looked_at_where_none_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "notakey")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Tracker(tmp_path, mode="auto", project="p", config={}) as tracker:
        assert "offline" in tracker.location


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WANDB_MODE", "bogus", "mode: Input should be"),
        ("WANDB_BASE_URL", "nourl", "base_url: Input should be a valid URL"),
        ("WANDB_PROJECT", "a/b", "Invalid project name"),
    ],
)
def test_what_wandb_refuses_is_one_line(name: str, value: str, said: str, tmp_path: Path) -> None:
    # In a process of its own: W&B reads its variables once.
    code = "from vocdist.runs.tracking import Tracker; from pathlib import Path; import sys\n"
    code += "Tracker(Path(sys.argv[1]), mode='offline', project=None, config={})"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**environment(), "PYTHONPATH": str(REPO), name: value},
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("vocdist.errors.")]
    assert said in line and "pass tracking.wandb=disabled" in line


WAITING = """
import sys
from pathlib import Path
from vocdist.runs.tracking import Tracker
print("begins", flush=True)
with Tracker(Path(sys.argv[1]), mode="online", project="p", config={}) as tracker:
    print(tracker.location)
"""


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_said_to_be_waited_for(tmp_path: Path) -> None:
    server = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)],
        env={**environment(), "PYTHONPATH": str(REPO), **server},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        begun = time.monotonic()
        line = process.stdout.readline()
        waited = time.monotonic() - begun
        rest = process.stdout.read()
    assert line.startswith("waiting up to 20 s for W&B at http://127.0.0.1:9 (tracking.wandb=off")
    # W&B itself, whose import is in this time too, would have been silent for ten at least.
    assert waited < 8
    said, where = rest.splitlines()
    assert said.startswith("W&B cannot be reached") and said.endswith("is logged offline")
    assert where.startswith("W&B: offline")


def test_a_wandb_dir_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "file" / "folder"))
    with pytest.raises(UserError, match=r"WANDB_DIR=.*folder: cannot be made \(Not a directory\)"):
        Tracker(tmp_path, mode="offline", project="p", config={})


def test_disabled_writes_the_file_alone(tmp_path: Path) -> None:
    with Tracker(tmp_path, mode="disabled", project="p", config={}) as tracker:
        assert tracker.run_id is None
        tracker.log(ROWS[0])
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


def test_the_null_tracker_takes_everything_and_writes_nothing(tmp_path: Path) -> None:
    with NullTracker() as tracker:
        tracker.log(ROWS[0])
        tracker.log_pictures({"a": tmp_path / "a.png"}, 1)
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_rows_behind_the_checkpoint_and_half_lines_are_dropped(tmp_path: Path) -> None:
    lines = [json.dumps(row) + "\n" for row in ROWS]
    (tmp_path / METRICS).write_text("".join(lines) + '{"global_step": 4')
    drop_rows_after(tmp_path / METRICS, 20, 9)
    assert (tmp_path / METRICS).read_text() == "".join(lines[:2])
    drop_rows_after(tmp_path / METRICS, -1, 0)
    assert (tmp_path / METRICS).read_text() == ""


def test_an_evaluation_that_is_made_again_has_its_row_once(tmp_path: Path) -> None:
    step = {"global_step": 3, "epoch": 1, "train/loss": 0.5}
    measured = {"global_step": 3, "epoch": 1, "val/mAP": 0.5}
    lines = [json.dumps(row) + "\n" for row in (step, measured)]
    (tmp_path / METRICS).write_text("".join(lines))
    drop_rows_after(tmp_path / METRICS, 3, epoch=1)
    assert (tmp_path / METRICS).read_text() == "".join(lines)
    drop_rows_after(tmp_path / METRICS, 3, epoch=0)
    assert (tmp_path / METRICS).read_text() == lines[0]


def test_dropping_from_no_file_is_fine(tmp_path: Path) -> None:
    drop_rows_after(tmp_path / METRICS, 5, 9)
    assert list(tmp_path.iterdir()) == []
