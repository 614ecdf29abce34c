"""Loader processes that serve all passes of a training, of both splits."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from vocdist.data.batch import Batch
from vocdist.data.dataset import RequestedSamples
from vocdist.data.loader import BatchLoader
from vocdist.data.transforms import ClassifierEvalTransform, ClassifierTrainTransform
from vocdist.data.workers import LoaderProcesses
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader

Loaders = tuple[BatchLoader, BatchLoader, LoaderProcesses]


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.is_running()}


def made(shards: Path, *, kept: bool = True) -> Loaders:
    reader = ShardReader(shards, "train")
    classes = len(reader.manifest.classes)
    train_set = RequestedSamples(
        reader, ClassifierTrainTransform(classes, 32, (0.5, 1.0), (3 / 4, 4 / 3), flip=True), seed=3
    )
    val_set = RequestedSamples(
        ShardReader(shards, "val"), ClassifierEvalTransform(classes, 32, 1.0), seed=3
    )
    train = BatchLoader(train_set, 5, num_workers=1)
    val = BatchLoader(val_set, 4, num_workers=1)
    processes = LoaderProcesses([train_set, val_set], workers=1, pin_memory=False, kept=kept)
    train.share(processes)
    val.share(processes)
    return train, val, processes


@pytest.fixture
def loaders(demo_shards: Path) -> Iterator[Loaders]:
    before = children()
    found = made(demo_shards)
    yield found
    found[2].close()
    assert children() <= before


def same(ours: list[Batch], expected: list[Batch]) -> bool:
    return len(ours) == len(expected) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.indices, b.indices)
        and torch.equal(a.seeds, b.seeds)
        for a, b in zip(ours, expected, strict=True)
    )


def alone(loader: BatchLoader) -> BatchLoader:
    return BatchLoader(loader.dataset, loader.global_batch)


def test_one_process_serves_every_pass_of_both_splits(loaders: Loaders) -> None:
    train, val, _ = loaders
    before = children()
    passes = [list(train.training(0)), list(val.evaluation()), list(train.training(1))]
    started = children() - before
    assert len(started) == 1
    passes += [list(val.evaluation()), list(train.training(2, start_step=3))]
    assert children() - before == started
    expected = [
        list(alone(train).training(0)),
        list(alone(val).evaluation()),
        list(alone(train).training(1)),
        list(alone(val).evaluation()),
        list(alone(train).training(2, start_step=3)),
    ]
    assert all(same(ours, theirs) for ours, theirs in zip(passes, expected, strict=True))


def test_a_pass_that_is_broken_off_leaves_nothing_for_the_next(loaders: Loaders) -> None:
    train, val, _ = loaders
    for taken in (1, 3):
        batches = train.training(0)
        for _ in range(taken):
            next(batches)
        batches.close()
        assert same(list(val.evaluation()), list(alone(val).evaluation()))
    assert same(list(train.training(1)), list(alone(train).training(1)))


def test_a_pass_within_a_pass_has_its_own_process(loaders: Loaders) -> None:
    train, val, _ = loaders
    outer, seen = train.training(0), []
    for batch in outer:
        seen.append(batch)
        if len(seen) == 2:
            assert same(list(val.evaluation()), list(alone(val).evaluation()))
    assert same(seen, list(alone(train).training(0)))


def test_after_an_error_the_next_pass_starts_anew(
    loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val, _ = loaders
    before = children()

    def fails(self: Any, requests: Any) -> Any:
        raise UserError("a shard went away")

    with monkeypatch.context() as patched:
        patched.setattr(RequestedSamples, "__getitems__", fails)
        with pytest.raises(UserError, match="a shard went away"):
            list(train.training(0))
    assert children() == before
    assert same(list(val.evaluation()), list(alone(val).evaluation()))


def test_unless_they_are_kept_they_end_with_the_pass(demo_shards: Path) -> None:
    train, val, _ = made(demo_shards, kept=False)
    before = children()
    batches = train.training(0)
    next(batches)
    assert len(children() - before) == 1
    batches.close()
    assert children() == before
    assert list(val.evaluation()) and children() == before


def test_too_few_files_are_one_clear_error_and_not_a_standstill() -> None:
    code = (
        "import resource\n"
        "from vocdist.data.workers import check_open_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 512)); check_open_files()\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 512\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60)); check_open_files()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UserError: this process may open 60 files, too few" in done.stderr
