"""Requests are made as they are needed, and shards are fetched in the order of their use."""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from vocdist.data import loader as loader_module
from vocdist.data.batch import SampleRequest
from vocdist.data.dataset import RequestedSamples
from vocdist.data.geometry import Padding
from vocdist.data.loader import BatchLoader, Parts, announced
from vocdist.data.transforms import RpnTransform
from vocdist.shards.reader import ShardReader

REPO = Path(__file__).parents[2]


class Requests(RequestedSamples):
    """What was asked for, in the place of batches."""

    def __getitems__(self, requests: list[SampleRequest]) -> list[SampleRequest]:  # type: ignore[override]
        return list(requests)

    def collate(self, items: list[SampleRequest]) -> list[SampleRequest]:  # type: ignore[override]
        return items


def loader(shards: Path, global_batch: int = 4, **settings: int) -> BatchLoader:
    dataset = Requests(ShardReader(shards, "train"), RpnTransform(64, 100, flip=True), seed=5)
    padding = Padding(64, 100, 32)
    return BatchLoader(dataset, global_batch, padding=padding, **settings)


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"parts": 2}, {"shuffle_shards": 1}, {"drop_last": 1}])
def test_they_are_those_of_all_steps_at_once(
    demo_shards: Path, world: int, settings: dict[str, int]
) -> None:
    for rank in range(world):
        own = loader(demo_shards, rank=rank, world_size=world, **settings)
        batches = own._training_batches(epoch=2)
        assert len(batches) == own.steps_per_epoch()
        for start in (0, 4, len(batches)):
            expected = [p for b in batches[start:] for p in own._training_parts(b, 2)]
            assert list(own.training(2, start_step=start)) == expected
    assert [r.index for part in own.grouped([np.array([3, 1])]) for r in part] == [3, 1]


def test_none_is_made_before_its_step(demo_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(*values: object, **named: object) -> SampleRequest:
        made.append(values)
        return SampleRequest(*values, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(loader_module, "SampleRequest", counted)
    own = loader(demo_shards)
    for passed in (own.training(0), own.evaluation()):
        made.clear()
        for steps in (1, 2, 3):
            next(passed)
            assert len(made) == 4 * steps


class Shards:
    """A reader that notes what is fetched: ten samples a shard."""

    shards = 6

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def shard_of(self, index: int) -> int:
        return index // 10

    def prefetch(self, shard: int) -> None:
        self.fetched.append(shard)


@pytest.mark.parametrize("lookahead", [1, 3, 60])
def test_a_shard_is_asked_for_so_many_parts_ahead(
    monkeypatch: pytest.MonkeyPatch, lookahead: int
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(loader_module._Fetcher, "ask", lambda self, shard: asked.append(shard))
    order = np.random.default_rng(3).permutation(60)
    order = np.concatenate([order[order < 30], order[order >= 30]])
    samples = order.reshape(-1, 2)
    looked_at = []

    def ahead() -> Iterator[np.ndarray]:
        for part in samples:
            looked_at.append(part)
            yield part

    requests = [[SampleRequest(int(i), 0) for i in part] for part in samples]
    parts = Parts(len(samples), ahead, lambda: iter(requests))
    own = announced(parts, Shards(), lookahead)  # type: ignore[arg-type]
    for position, part in enumerate(own):
        assert part == requests[position]
        needed = dict.fromkeys((samples[: position + lookahead + 1] // 10).ravel().tolist())
        assert asked == list(needed)
    # All shards were asked for long before the end.
    assert len(looked_at) < 25


def test_the_benchmark_of_the_start_measures_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(REPO / "benchmarks"))
    import bench_startup

    bench_startup.write_shards(tmp_path / "shards", 250, 100)
    for ranks in (1, 2):
        figures = bench_startup.measure(tmp_path, ranks, 8)
        assert set(figures) == {*bench_startup.STAGES, "private", "resident"}
        assert all(0 <= figures[stage] < 60 for stage in bench_startup.STAGES)
    assert len(list(islice(tmp_path.glob("cache/columns/*/*.npy"), 2))) == 1
    sys.modules.pop("bench_startup")
