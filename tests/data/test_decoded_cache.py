from pathlib import Path

import numpy as np
import pytest
import torch

from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config.file import load_config
from vocdist.data.dataset import DecodedCache
from vocdist.data.loader import BatchLoader
from vocdist.errors import UserError
from vocdist.training.loaders import build_loader, build_reader

SIZES = np.array([[4, 6], [5, 3], [7, 7]])


def test_what_was_put_in_comes_back_and_the_rest_does_not() -> None:
    cache = DecodedCache(SIZES, max_bytes=1_000_000, workers=0)
    images = [torch.randint(0, 256, (3, h, w), dtype=torch.uint8) for h, w in SIZES.tolist()]
    assert len(cache) == 3 and cache.get(1) is None
    for index, image in enumerate(images):
        cache.put(index, image)
    for index, image in enumerate(images):
        kept = cache.get(index)
        assert kept is not None and torch.equal(kept, image)
        assert kept.permute(1, 2, 0).is_contiguous()
    assert cache.take_hit_share() == pytest.approx(3 / 4)
    assert cache.take_hit_share() == 0.0


@pytest.mark.parametrize(("max_bytes", "kept"), [(0, 0), (71, 0), (72, 1), (117, 2), (264, 3)])
def test_the_bound_is_kept_to_the_byte(max_bytes: int, kept: int) -> None:
    cache = DecodedCache(SIZES, max_bytes, workers=0)
    assert len(cache) == kept
    for index, (h, w) in enumerate(SIZES.tolist()):
        cache.put(index, torch.zeros((3, h, w), dtype=torch.uint8))
        assert (cache.get(index) is not None) == (index < kept)


def test_an_image_of_another_size_is_refused() -> None:
    cache = DecodedCache(SIZES, 1_000_000, workers=0)
    with pytest.raises(ValueError, match="was reserved"):
        cache.put(0, torch.zeros((3, 6, 4), dtype=torch.uint8))


def test_more_than_there_is_names_the_remedies() -> None:
    enormous = np.full((1, 2), 20_000_000)
    with pytest.raises(UserError, match=r"data\.decoded_cache.*shm-size"):
        DecodedCache(enormous, 10**18, workers=1)


def loader(shards: Path, task: str, workers: int, cache_mb: float) -> BatchLoader:
    overrides = [f"data.shards={shards}", f"data.num_workers={workers}", "train.global_batch=8"]
    more = [f"data.decoded_cache={cache_mb}MB", "data.short_side=80"]
    if task == "classifier":
        config: TaskConfig = load_config(
            ClassifierConfig, None, [*overrides, *more, "input.size=32"]
        )
    else:
        small = ["input.short_side=64", "input.long_side=100", "input.flip=true"]
        config = load_config(RpnConfig, None, [*overrides, *more, *small])
    reader = build_reader(config, "train")
    return build_loader(config, reader, training=True, keep_decoded=True)


@pytest.mark.parametrize("task", ["classifier", "rpn"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_it_and_later_epochs_decode_nothing(
    demo_shards: Path, task: str, workers: int
) -> None:
    plain, cached = (loader(demo_shards, task, workers, mb) for mb in (0, 100))
    assert plain.dataset.cache is None and cached.dataset.cache is not None
    for epoch, hits in ((0, 0.0), (1, 1.0)):
        for ours, theirs in zip(cached.training(epoch), plain.training(epoch), strict=True):
            assert torch.equal(ours.images, theirs.images)
            for name, target in theirs.targets.items():
                assert torch.equal(ours.targets[name], target)
        assert cached.dataset.cache.take_hit_share() == hits


def test_images_without_room_are_decoded_each_time(demo_shards: Path) -> None:
    # Room for some of the 36: a share of one MB, and an image takes 80 x 107 x 3 bytes.
    cached = loader(demo_shards, "classifier", 1, 1)
    assert cached.dataset.cache is not None and 10 < len(cached.dataset.cache) < 36
    for _ in range(2):
        list(cached.training(epoch=0))
    share = len(cached.dataset.cache) / 36
    assert cached.dataset.cache.take_hit_share() == pytest.approx(share / 2)
