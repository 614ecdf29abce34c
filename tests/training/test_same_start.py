"""Ranks that do not see the same run folder say so at once."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from forked import start_ranks, train_to_the_end
from launch import CLASSIFIER

from vocdist.config import ClassifierConfig
from vocdist.runs.checkpoint import Position
from vocdist.training.start import RankStart, Start, _difference


def a_folder_of_its_own(log: Path) -> None:
    """As on a host of its own: a relative run.dir is another folder for each rank."""
    folder = log.parent / f"host-{os.environ.get('RANK', '0')}"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)


def test_ranks_with_other_checkpoints_are_told_to_share_the_run_folder(
    demo_shards: Path, tmp_path: Path
) -> None:
    settings = [f"data.shards={demo_shards}", *CLASSIFIER, "tracking.wandb=disabled"]
    settings = [*settings, "run.dir=run", "data.limit_train=12", "train.epochs=1"]
    train_to_the_end("classifier", settings, tmp_path / "one", prepare=a_folder_of_its_own)
    kept = sorted((tmp_path / "host-0" / "run").rglob("*"))
    log, begun = tmp_path / "two", time.monotonic()
    ranks = start_ranks("classifier", settings, log, world=2, prepare=a_folder_of_its_own)
    for process in ranks:
        process.join(240)
    # No wait for `runtime.collective_timeout_s`, which is half an hour.
    assert time.monotonic() - begun < 200
    assert [process.exitcode for process in ranks] == [2, 2]
    said = (log / f"{ranks[0].pid}.out").read_text()
    assert "rank 0 sees step-00000002 in run, rank 1 sees no checkpoint in run" in said
    assert "put run.dir on a file system that all hosts share" in said
    assert sorted((tmp_path / "host-0" / "run").rglob("*")) == kept
    assert not (tmp_path / "host-1" / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [("train.log_every", 7, True), ("data.resident", "device", True), ("train.keep", 9, False)],
)
def test_settings_that_ranks_follow_together_must_be_the_same(
    name: str, value: object, refused: bool
) -> None:
    section, field = name.split(".")
    config = ClassifierConfig()
    other = replace(config, **{section: replace(getattr(config, section), **{field: value})})
    start = Start(Position(global_batch=6, manifest_hash=""))
    ranks = [
        RankStart(rank, "host", one, start, finished=False)
        for rank, one in enumerate((config, other))
    ]
    assert (name in _difference(*ranks)) is refused
