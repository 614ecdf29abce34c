"""Batches of shards behind http that do not fit into the cache."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from fault_server import FaultServer

from vocdist.data.dataset import RequestedSamples
from vocdist.data.geometry import Padding
from vocdist.data.loader import BatchLoader
from vocdist.data.transforms import ClassifierEvalTransform, RpnTransform
from vocdist.errors import UserError
from vocdist.remote.cache import CacheRule
from vocdist.shards.format import load_manifest
from vocdist.shards.reader import ShardReader


def loader(reader: ShardReader, *, boxes: bool = False, **settings: int) -> BatchLoader:
    transform = RpnTransform(32, 64, False, True) if boxes else ClassifierEvalTransform(20, 16, 1.0)
    padding = Padding(32, 64, 32) if boxes else None
    return BatchLoader(RequestedSamples(reader, transform, seed=3), 2, padding=padding, **settings)


def cached_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("shards/*/*.tar"))


@pytest.fixture
def two_shards(demo_shards: Path, tmp_path: Path) -> CacheRule:
    """A cache that holds two of the three train shards."""
    sizes = sorted(s.bytes for s in load_manifest(demo_shards).splits["train"].shards)
    return CacheRule(tmp_path / "cache", sum(sizes[1:]))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("boxes", [False, True])
def test_batches_are_those_of_local_shards_each_fetched_once_an_epoch(
    demo_shards: Path, two_shards: CacheRule, num_workers: int, boxes: bool
) -> None:
    with FaultServer(demo_shards) as server:
        remote = ShardReader(server.url, "train", cache=two_shards)
        settings = {"shuffle_shards": 1, "num_workers": num_workers, "boxes": boxes}
        ours = loader(remote, **settings)
        local = loader(ShardReader(demo_shards, "train"), shuffle_shards=1, boxes=boxes)
        for epoch in range(2):
            server.requests.clear()
            pairs = list(zip(ours.training(epoch), local.training(epoch), strict=True))
            for mine, expected in pairs:
                assert torch.equal(mine.indices, expected.indices)
                assert torch.equal(mine.images, expected.images)
            # What the epoch before left may be there already; nothing is fetched twice.
            names = Counter(n for _, n, _ in server.requests if n.startswith("train"))
            assert set(names.values()) <= {1} or boxes
            assert cached_bytes(two_shards.root) <= (two_shards.max_bytes or 0)
        assert len(list(ours.training(0, start_step=15))) == len(pairs) - 15


def test_a_cache_too_small_for_the_window_names_the_numbers(
    web_reader_sizes: list[int], demo_shards: Path, tmp_path: Path
) -> None:
    total, largest_two = sum(web_reader_sizes), sum(sorted(web_reader_sizes)[1:])
    with FaultServer(demo_shards) as server:
        small = ShardReader(server.url, "train", cache=CacheRule(tmp_path, total - 1))
        small.check_cache(1)
        with pytest.raises(
            UserError, match=rf"set data.cache_bytes={total} or more, or data.shuffle_shards=1"
        ):
            small.check_cache(None)
        smaller = ShardReader(server.url, "train", cache=CacheRule(tmp_path, largest_two - 1))
        with pytest.raises(UserError, match=rf"2 of the.*cache_bytes={largest_two} or more$"):
            smaller.check_cache(1)
        ShardReader(server.url, "train", cache=CacheRule(tmp_path, None)).check_cache(None)
        # Few enough samples need few enough shards.
        ShardReader(server.url, "train", 5, CacheRule(tmp_path, max(web_reader_sizes))).check_cache(
            None
        )
    ShardReader(demo_shards, "train").check_cache(None)


@pytest.fixture
def web_reader_sizes(demo_shards: Path) -> list[int]:
    return [shard.bytes for shard in load_manifest(demo_shards).splits["train"].shards]
