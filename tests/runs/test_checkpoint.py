import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from vocdist.errors import UserError
from vocdist.runs.checkpoint import (
    CHECKSUMS,
    STATE,
    TRAINING,
    WEIGHTS,
    Checkpoints,
    Position,
    load_model,
    load_position,
    load_training,
)

START = Position(global_batch=4, manifest_hash="abc")


def position(step: int) -> Position:
    here = START
    for _ in range(step):
        here = here.after_step(4)
    return here


def test_a_position_moves_by_steps_and_epochs() -> None:
    here = START.after_step(4).after_step(3)
    assert (here.step, here.global_step, here.samples_seen) == (2, 2, 7)
    here = here.after_epoch(0.5)
    assert (here.epoch, here.step, here.global_step) == (1, 0, 2)
    assert (here.best_epoch, here.best_value) == (1, 0.5)
    assert here.after_epoch(0.4).best_epoch == 1
    assert here.after_epoch(0.6).best_epoch == 2


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.last() is None
    training = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "scaler": None}
    checkpoints.save(position(7), model, training, best=True)
    last = checkpoints.last()
    assert last is not None
    assert last == checkpoints.best()
    assert load_position(last) == position(7)
    load_model(other, last / WEIGHTS)
    assert torch.equal(other.weight, model.weight)
    loaded = load_training(last)
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], torch.ones(2))


def test_old_ones_go_but_the_best_stays(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(position(step), nn.Linear(1, 1), {}, best=step == 2)
    folders = sorted(path.name for path in tmp_path.glob("step-*"))
    assert folders == ["step-00000002", "step-00000004", "step-00000005"]
    assert checkpoints.last() == tmp_path / "step-00000005"
    assert checkpoints.best() == tmp_path / "step-00000002"


def test_a_step_that_is_saved_again_stays_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, model = Checkpoints(tmp_path, keep=1), nn.Linear(1, 1)
    measured = position(1).after_epoch(0.5)
    checkpoints.save(position(1), model, {}, best=False)
    with monkeypatch.context() as patch:
        # As a kill would: between the new folder's rename and the pointer's.
        patch.setattr(Checkpoints, "_point", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            checkpoints.save(measured, model, {}, best=False)
    assert len(list(tmp_path.glob("step-*"))) == 2
    last = checkpoints.last()
    assert last and load_position(last) == position(1)
    checkpoints.save(measured, model, {}, best=False)
    last = checkpoints.last()
    assert last and load_position(last) == measured
    assert list(tmp_path.glob("step-*")) == [last]


SAVE_FOREVER = """
import itertools, sys
from pathlib import Path
from torch import nn
from vocdist.runs.checkpoint import Checkpoints, Position
checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
model = nn.Linear(400, 400)
position = Position(global_batch=1, manifest_hash="abc")
for step in itertools.count():
    position = position.after_step(1)
    checkpoints.save(position, model, {"step": step}, best=step % 2 == 0)
"""


def test_a_kill_in_the_middle_of_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(0)
    for folder in (tmp_path / name for name in "abc"):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(folder)])
        while not (folder / "last").exists():
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.2))
        process.kill()
        process.wait()
        checkpoints = Checkpoints(folder, keep=1)
        last, best = checkpoints.last(), checkpoints.best()
        assert last is not None and best is not None
        step = load_position(last).global_step
        assert load_training(last) == {"step": step - 1}
        load_model(nn.Linear(400, 400), last / WEIGHTS)
        # Every second step is the best so far; it may be one that `last` has not reached.
        assert load_position(best).global_step in (step - (step + 1) % 2, step + 1)


def test_damage_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(position(1), nn.Linear(1, 1), {}, best=False)
    folder = tmp_path / "step-00000001"
    with pytest.raises(UserError, match=r"model\.safetensors: weights of another network"):
        load_model(nn.Linear(2, 2), folder / WEIGHTS)
    (folder / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read"):
        load_model(nn.Linear(1, 1), folder / WEIGHTS)
    (folder / STATE).write_text("{}")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        load_position(folder)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = [flip_a_bit, cut, empty, Path.unlink]
FILES = [WEIGHTS, TRAINING, STATE, CHECKSUMS]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, name: str, damaged: Callable[[Path], None]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(position(step), nn.Linear(1, 1), {}, best=True)
    assert checkpoints.passed_over() == []
    first, second = (tmp_path / f"step-0000000{step}" for step in (1, 2))
    damaged(second / name)
    assert checkpoints.last() == first
    assert checkpoints.best() is None
    assert checkpoints.passed_over()[0].startswith(f"{second} is damaged (")
    damaged(first / name)
    with pytest.raises(UserError, match=r"no checkpoint here is whole(.|\n)*step-00000001: "):
        checkpoints.last()


@pytest.mark.parametrize("damaged", DAMAGES)
def test_a_damaged_pointer_costs_nothing(tmp_path: Path, damaged: Callable[[Path], None]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(position(step), nn.Linear(1, 1), {}, best=False)
    damaged(tmp_path / "last")
    assert checkpoints.last() == tmp_path / "step-00000002"
    assert checkpoints.passed_over() == [f"{tmp_path / 'last'} names no checkpoint"]


def test_the_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    Checkpoints(tmp_path, keep=1).save(position(1), nn.Linear(1, 1), {}, best=False)
    for line in (tmp_path / "step-00000001" / CHECKSUMS).read_text().splitlines():
        digest, name = line.split("  ")
        data = (tmp_path / "step-00000001" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
