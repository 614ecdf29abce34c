"""The shipped recipes, tiny: killed and stopped they end as if nothing had happened."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import start_ranks, train_to_the_end
from launch import REPO
from run_files import rows_of, same_end
from safetensors.torch import load_file

from vocdist.config.file import read_yaml
from vocdist.report.run_data import flat

TINY = {
    "data.num_workers": 0,
    "data.limit_train": 14,
    "data.limit_val": 4,
    "model.weights": "none",
    "train.epochs": 2,
    "train.global_batch": 5,
    "train.log_every": 1,
    "train.save_every": 2,
    "tracking.wandb": "disabled",
}
SIZES = {
    "classifier": {"input.size": 32, "data.short_side": 64},
    # Two kinds of shape, three levels.
    "rpn": {"model.classifier": "none", "input.short_side": 64, "input.long_side": 128},
}


def recipe(task: str, shards: Path, run: Path, cache: Path) -> list[str]:
    """All settings of `configs/<task>.yaml`, but for its sizes."""
    settings = flat(read_yaml(REPO / "configs" / f"{task}.yaml"))
    settings |= TINY | SIZES[task] | {"data.shards": str(shards), "run.dir": str(run)}
    if task == "rpn":
        settings["features.folder"] = str(cache)
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def told_truly(log: Path) -> None:
    """How many ranks there are on this host: they share the work of making features."""
    os.environ["LOCAL_WORLD_SIZE"] = os.environ.get("WORLD_SIZE", "1")


@pytest.fixture(scope="module", params=["classifier", "rpn"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(task: str, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(task)
    settings = recipe(task, demo_shards, folder / "run", folder / "cache")
    train_to_the_end(task, settings, folder / "log", prepare=told_truly)
    return folder


def killed_in_a_step(log: Path) -> None:
    """SIGKILL in the middle of an epoch, behind its checkpoint."""
    told_truly(log)
    from vocdist.training.loop import Trainer

    take_step = Trainer._optimizer_step

    def then_die(self, batch):  # type: ignore[no-untyped-def]
        take_step(self, batch)
        if self.position.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    Trainer._optimizer_step = then_die  # type: ignore[method-assign]


def stopped_in_evaluation(log: Path) -> None:
    """SIGTERM while the first epoch is measured: its end is saved, without its figures."""
    told_truly(log)
    from vocdist.distributed.agreement import Agreement

    evaluation = Agreement.evaluation

    def asked_first(self, batches):  # type: ignore[no-untyped-def]
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluation(self, batches)

    Agreement.evaluation = asked_first  # type: ignore[method-assign]


def killed_behind_its_row(log: Path) -> None:
    """SIGKILL when an epoch's row is written and its checkpoint is not."""
    told_truly(log)
    from vocdist.runs.checkpoint import Checkpoints

    save = Checkpoints.save

    def die_first(self, position, *others, **more):  # type: ignore[no-untyped-def]
        if position.step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, position, *others, **more)

    Checkpoints.save = die_first  # type: ignore[method-assign]


def ends_with(
    code: int, task: str, settings: Sequence[str], log: Path, prepare: Callable[[Path], None]
) -> None:
    (process,) = start_ranks(task, settings, log, prepare=prepare)
    process.join(240)
    assert process.exitcode == code, (log / f"{process.pid}.out").read_text()


def test_killed_stopped_in_its_evaluation_and_killed_again(
    task: str, undisturbed: Path, demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = recipe(task, demo_shards, run, undisturbed / "cache")
    ends_with(-signal.SIGKILL, task, settings, tmp_path / "1", killed_in_a_step)
    ends_with(75, task, settings, tmp_path / "2", stopped_in_evaluation)
    assert not any("val/loss" in row for row in rows_of(run))
    ends_with(-signal.SIGKILL, task, settings, tmp_path / "3", killed_behind_its_row)
    assert sum("val/loss" in row for row in rows_of(run)) == 1
    text = train_to_the_end(task, settings, tmp_path / "4", prepare=told_truly)
    assert "going on from" in text
    same_end(run, undisturbed / "run")


@pytest.mark.parametrize("task", ["rpn"], indirect=True)
def test_two_processes_share_the_features_they_make(
    task: str, undisturbed: Path, demo_shards: Path, tmp_path: Path
) -> None:
    settings = recipe(task, demo_shards, tmp_path / "run", tmp_path / "cache")
    text = train_to_the_end(task, settings, tmp_path / "log", world=2, prepare=told_truly)
    # Each made a part of them, and together they made all.
    assert text.count("are computed once") >= 1
    ours, theirs = (
        {path.name: load_file(path) for path in (folder / "cache").glob("*.safetensors")}
        for folder in (tmp_path, undisturbed)
    )
    assert len(theirs) > 2 and ours.keys() == theirs.keys()
    for name, levels in theirs.items():
        # One process of two has fewer threads, and PyTorch's convolutions then round otherwise.
        torch.testing.assert_close(ours[name], levels, rtol=0.01, atol=0.01)
    losses = [
        [row["train/loss"] for row in rows_of(folder / "run") if "train/loss" in row]
        for folder in (tmp_path, undisturbed)
    ]
    assert len(losses[0]) >= 6
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
