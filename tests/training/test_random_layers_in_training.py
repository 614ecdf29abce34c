"""Backbones with stochastic depth train alike on any number of processes and after a kill."""

import json
from pathlib import Path

import numpy as np
import pytest
from forked import train_to_the_end
from test_resume import after_rows, assert_same_end, killed_when

from vocdist.models.backbone import LEVELS
from vocdist.runs.checkpoint import Checkpoints, load_position

# ResNets and MobileNets have none; dropout is in the other tests of resuming and of two processes,
# and the masks of each network are in tests/models/test_random_layers.py.
BACKBONES = [pytest.param(name, marks=pytest.mark.slow) for name in LEVELS]


def arguments(backbone: str, shards: Path, run: Path) -> list[str]:
    return [
        *(f"data.shards={shards}", f"run.dir={run}", "data.num_workers=0", "data.limit_train=20"),
        *("data.limit_val=5", "train.global_batch=5", "train.epochs=2", "train.log_every=1"),
        *(f"model.backbone={backbone}", "model.weights=none", "input.size=64"),
        # Small steps: Adam makes whole ones of the rounding where a gradient is nearly 0.
        *("optim.lr=1e-6", "train.save_every=2", "tracking.wandb=disabled"),
    ]


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(backbone: str, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / backbone
    train_to_the_end("classifier", arguments(backbone, demo_shards, run), run / "log")
    return run


def losses_of(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def test_two_processes_train_as_one_does(
    backbone: str, undisturbed: Path, demo_shards: Path, tmp_path: Path
) -> None:
    # Five samples a step: three and two. With other masks the first losses differ already.
    run = tmp_path / "run"
    train_to_the_end("classifier", arguments(backbone, demo_shards, run), run / "log", world=2)
    losses = losses_of(undisturbed)
    assert len(losses) == 8
    np.testing.assert_allclose(losses_of(run), losses, rtol=1e-3)


def test_killed_and_resumed_it_ends_the_same(
    backbone: str, undisturbed: Path, demo_shards: Path, tmp_path: Path
) -> None:
    run, settings = tmp_path / "run", arguments(backbone, demo_shards, tmp_path / "run")
    assert killed_when(after_rows(3), "classifier", settings, run, tmp_path / "killed")
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None and 0 < load_position(last).global_step < 8
    text = train_to_the_end("classifier", settings, tmp_path / "resumed")
    assert "going on from" in text
    assert_same_end(run, undisturbed)
