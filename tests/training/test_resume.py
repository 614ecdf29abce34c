"""Trainings that are killed anywhere and go on end where the undisturbed one does."""

import json
import random
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import note_samples, start_ranks, train_to_the_end
from safetensors.torch import load_file

from vocdist.runs.checkpoint import Checkpoints, load_position, load_training
from vocdist.shards.format import load_manifest

COMMON = [
    "train.epochs=3",
    "train.save_every=2",
    "train.log_every=1",
    "data.num_workers=0",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]
SETTINGS = {
    "classifier": ["model.weights=none", "input.size=32", "train.global_batch=6"],
    "rpn": [
        "model.classifier=none",
        "model.weights=none",
        "model.scales=[[16, 32]]",
        "input.short_side=64",
        "input.long_side=96",
        "input.flip=true",
        "train.global_batch=5",
        "train.clip_norm=5.0",
    ],
}
# (epoch, step) -> the samples that each rank computed of it.
Seen = dict[tuple[int, int], dict[int, list[int]]]


def arguments(task: str, shards: Path, run: Path) -> list[str]:
    return [f"data.shards={shards}", f"run.dir={run}", *COMMON, *SETTINGS[task]]


@pytest.fixture(scope="module", params=["classifier", "rpn"])
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def undisturbed(task: str, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to; `log` in it says what it computed."""
    run = tmp_path_factory.mktemp("runs") / task
    settings = arguments(task, demo_shards, run)
    train_to_the_end(task, settings, run / "log", prepare=note_samples)
    return run


def seen_by(log: Path) -> Seen:
    """What the processes that wrote here computed, or had loaded when they were killed."""
    seen: Seen = defaultdict(dict)
    for path in sorted(log.glob("samples-*.jsonl")):
        for line in path.read_text().splitlines():
            epoch, step, rank, indices = json.loads(line)
            assert seen[epoch, step].setdefault(rank, indices) == indices
    return seen


def order(seen: Seen) -> dict[tuple[int, int], list[int]]:
    """(epoch, step) -> its samples over all ranks."""
    return {
        step: [index for rank in sorted(ranks) for index in ranks[rank]]
        for step, ranks in sorted(seen.items())
    }


def rows_of(run: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def assert_equal(ours: object, theirs: object) -> None:
    """To the last bit, in depth."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict) and isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list) and isinstance(theirs, list):
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert ours == theirs


def assert_same_end(run: Path, undisturbed: Path) -> None:
    """Weights, optimizer, meters and rows, bit for bit."""
    for name in ("model.safetensors",):
        assert_equal(load_file(run / name), load_file(undisturbed / name))
    ends = []
    for folder in (run, undisturbed):
        last = Checkpoints(folder / "checkpoints", 1).last()
        assert last is not None
        ends.append((load_file(last / "model.safetensors"), load_training(last)))
    assert_equal(list(ends[0]), list(ends[1]))
    assert rows_of(run) == rows_of(undisturbed)


def after_rows(count: int) -> Callable[[Path, Path], bool]:
    """Once `count` more rows are written: somewhere around a step."""

    def reached(run: Path, log: Path) -> bool:
        path = run / "metrics.jsonl"
        return path.is_file() and len(path.read_bytes().splitlines()) >= count

    return reached


def in_saving(run: Path, log: Path) -> bool:
    """While a checkpoint is being written."""
    return any((run / "checkpoints").glob(".step-*"))


def in_evaluation(run: Path, log: Path) -> bool:
    """While the val split is being read."""
    return any("val" in path.read_text()[-12:] for path in log.glob("reads-*.txt"))


def killed_when(
    reached: Callable[[Path, Path], bool],
    task: str,
    settings: Sequence[str],
    run: Path,
    log: Path,
    world: int = 1,
) -> bool:
    """Start, and SIGKILL all ranks once it is `reached`; whether they were still running."""
    ranks = start_ranks(task, settings, log, world=world, prepare=note_samples)
    deadline = time.monotonic() + 240
    while not reached(run, log) and ranks[0].is_alive():
        assert time.monotonic() < deadline, "never got there"
        time.sleep(0.0005)
    alive = ranks[0].is_alive()
    for process in ranks:
        process.kill()
    for process in ranks:
        process.join(60)
    return alive


def trained_with_kills(
    task: str, shards: Path, run: Path, kills: Sequence[Callable[[Path, Path], bool]]
) -> None:
    """Train in as many goes as it takes; each begins at its checkpoint and reads no more."""
    settings = arguments(task, shards, run)
    for number, reached in enumerate([*kills, None]):
        log = run / f"log-{number}"
        last = Checkpoints(run / "checkpoints", 1).last()
        start = load_position(last) if last else None
        over = (run / "results.json").is_file()
        if reached:
            killed_when(reached, task, settings, run, log)
        else:
            train_to_the_end(task, settings, log, prepare=note_samples)
        steps = sorted(seen_by(log))
        if start and steps:
            assert steps[0] == (start.epoch, start.step)
        reads = [line for path in log.glob("reads-*.txt") for line in path.read_text().splitlines()]
        # Nothing is read to get to the position; two loaded samples more may not be noted yet.
        computed = sum(len(samples) for samples in order(seen_by(log)).values())
        batches = 2 * 6
        # At its end a classifier measures the train split, to choose its thresholds.
        last = Checkpoints(run / "checkpoints", 1).last()
        at_its_end = task == "classifier" and last is not None and load_position(last).epoch == 3
        chosen = load_manifest(shards).splits["train"].samples if at_its_end else 0
        read = sum(line.startswith("train") for line in reads)
        assert computed + (0 if reached or over else chosen) <= read <= computed + chosen + batches


@pytest.mark.slow  # test_recipes.py kills the shipped recipes in the default suite
def test_killed_in_a_step_in_saving_and_in_evaluation(
    task: str, undisturbed: Path, demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trained_with_kills(task, demo_shards, run, [in_evaluation, after_rows(11), in_saving])
    assert_same_end(run, undisturbed)
    expected = order(seen_by(undisturbed / "log"))
    for log in run.glob("log-*"):
        for step, samples in order(seen_by(log)).items():
            assert samples == expected[step]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_many_times_anywhere(
    task: str, undisturbed: Path, demo_shards: Path, tmp_path: Path, seed: int
) -> None:
    rng, run = random.Random(seed), tmp_path / "run"
    kinds = [in_saving, in_evaluation, *(after_rows(rng.randint(1, 20)) for _ in range(6))]
    rng.shuffle(kinds)

    def a_moment_later(
        reached: Callable[[Path, Path], bool], moment: float
    ) -> Callable[[Path, Path], bool]:
        def then(run: Path, log: Path) -> bool:
            found = reached(run, log)
            if found:
                time.sleep(moment)
            return found

        return then

    kills = [a_moment_later(kind, rng.uniform(0, 0.2)) for kind in kinds]
    trained_with_kills(task, demo_shards, run, kills)
    assert_same_end(run, undisturbed)


def test_a_damaged_checkpoint_changes_nothing_but_the_time(
    task: str, undisturbed: Path, demo_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None
    content = bytearray((last / "training.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (last / "training.pt").write_bytes(content)
    text = train_to_the_end(task, arguments(task, demo_shards, run), tmp_path / "log")
    assert f"{last} is damaged (training.pt does not match SHA256SUMS)" in text
    assert "going on from" in text
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize("world", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_saved_on_two_processes_it_goes_on_with_another_number(
    task: str, undisturbed: Path, demo_shards: Path, tmp_path: Path, world: int
) -> None:
    run = tmp_path / "run"
    settings = arguments(task, demo_shards, run)
    assert killed_when(after_rows(5), task, settings, run, tmp_path / "two", world=2)
    last = Checkpoints(run / "checkpoints", 1).last()
    assert last is not None
    position = load_position(last)
    train_to_the_end(task, settings, tmp_path / "other", world=world, prepare=note_samples)
    expected = order(seen_by(undisturbed / "log"))
    here = (position.epoch, position.step)
    before = {s: v for s, v in order(seen_by(tmp_path / "two")).items() if s < here}
    after = order(seen_by(tmp_path / "other"))
    # The same samples in the same steps, none twice and none missed.
    assert before | after == expected
    assert not before.keys() & after.keys()
    losses = [
        {row["global_step"]: row["train/loss"] for row in rows_of(folder) if "train/loss" in row}
        for folder in (run, undisturbed)
    ]
    assert losses[0].keys() == losses[1].keys()
    np.testing.assert_allclose(
        list(losses[0].values()), list(losses[1].values()), rtol=1e-3, atol=1e-4
    )


def test_a_finished_run_goes_on_with_more_epochs(demo_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    own = [*arguments("classifier", demo_shards, run), "data.limit_train=12", "data.limit_val=4"]
    train_to_the_end("classifier", [*own, "train.epochs=1"], tmp_path / "first")
    before = load_file(run / "model.safetensors")
    text = train_to_the_end("classifier", [*own, "train.epochs=2"], tmp_path / "second")
    assert "train.epochs 1 -> 2: from epoch 2 on" in text and "going on from" in text
    measured = [row["epoch"] for row in rows_of(run) if "val/loss" in row]
    assert measured == [1, 2]
    assert json.loads((run / "results.json").read_text())["epoch"] in (1, 2)
    assert before.keys() == load_file(run / "model.safetensors").keys()
    (fewer,) = start_ranks("classifier", [*own, "train.epochs=1"], tmp_path / "third")
    fewer.join(240)
    words = (tmp_path / "third" / f"{fewer.pid}.out").read_text()
    assert fewer.exitcode == 2 and "2 epochs are trained, and train.epochs=1" in words
