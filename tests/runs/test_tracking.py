import json
from pathlib import Path

import pytest
from wandb_file import read_history, read_records

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
    for folder in (run, tmp_path / "fast"):
        folder.mkdir()
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
