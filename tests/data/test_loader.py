from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from converted import converted

from vocdist.data.batch import Batch
from vocdist.data.dataset import RequestedSamples
from vocdist.data.geometry import Padding
from vocdist.data.loader import BatchLoader, ahead_of_use
from vocdist.data.transforms import (
    ClassifierTrainTransform,
    RpnTransform,
    Transform,
)
from vocdist.errors import UserError
from vocdist.shards.reader import ShardReader

CROPS = ClassifierTrainTransform(20, 32, (0.5, 1.0), (3 / 4, 4 / 3), flip=True)
SCALED = RpnTransform(64, 100, flip=True)
PADDING = Padding(64, 100, 32)


def loader(
    shards: Path,
    *,
    split: str = "train",
    transform: Transform = CROPS,
    seed: int = 0,
    global_batch: int = 8,
    padding: Padding | None = None,
    **options: int,
) -> BatchLoader:
    dataset = RequestedSamples(ShardReader(shards, split), transform, seed)
    return BatchLoader(dataset, global_batch, padding=padding, **options)  # type: ignore[arg-type]


def indices(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("parts", [1, 2])
def test_an_epoch_is_every_sample_once_over_all_ranks(
    demo_shards: Path, world: int, parts: int
) -> None:
    steps: list[list[list[int]]] = []
    for rank in range(world):
        own = loader(demo_shards, rank=rank, world_size=world, parts=parts, global_batch=10)
        batches = list(own.training(epoch=1))
        assert sum(batch.ends_step for batch in batches) == own.steps_per_epoch() == 4
        real = [b.indices[b.weights > 0].tolist() for b in batches]
        steps.append(real)
    seen = [i for rank in steps for batch in rank for i in batch]
    assert sorted(seen) == list(range(36))


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_weights_make_ddp_s_average_the_mean_over_the_global_batch(
    demo_shards: Path, world: int
) -> None:
    # 36 = 3 * 10 + 6: the last step is smaller than 8 ranks, so some only take part.
    totals = np.zeros((world, 4))
    for rank in range(world):
        own = loader(demo_shards, rank=rank, world_size=world, global_batch=10)
        for step, batch in enumerate(own.training(epoch=0)):
            totals[rank, step] = float(batch.weights.sum())
    np.testing.assert_allclose(totals.mean(axis=0), 1.0, rtol=1e-6)


def test_workers_and_shards_change_nothing(demo_root: Path, tmp_path: Path) -> None:
    found = []
    for samples_per_shard in (5, 1000):
        folder = tmp_path / str(samples_per_shard)
        converted(demo_root, folder, samples_per_shard=samples_per_shard)
        for workers in (0, 1, 3):
            batches = loader(folder, num_workers=workers, parts=2).training(epoch=1)
            found.append([(batch.indices.tolist(), batch.images.clone()) for batch in batches])
    assert sorted(i for indices, _ in found[0] for i in indices) == list(range(36))
    for other in found[1:]:
        for (indices, images), (first, expected) in zip(other, found[0], strict=True):
            assert indices == first
            assert torch.equal(images, expected)


def test_samples_are_the_same_on_any_rank_and_worker(demo_shards: Path) -> None:
    alone = {
        int(i): image
        for batch in loader(demo_shards).training(epoch=2)
        for i, image in zip(batch.indices, batch.images, strict=True)
    }
    for rank in range(2):
        shared = loader(demo_shards, rank=rank, world_size=2, num_workers=2)
        for batch in shared.training(epoch=2):
            for i, image in zip(batch.indices, batch.images, strict=True):
                assert torch.equal(image, alone[int(i)])


def test_loading_leaves_torchs_generator_alone(demo_shards: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(loader(demo_shards, num_workers=workers).training(epoch=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_and_seeds_change_order_and_pixels(demo_shards: Path) -> None:
    first, again, later, other = (
        next(loader(demo_shards, seed=seed).training(epoch))
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.seeds, again.seeds)
    for changed in (later, other):
        assert first.indices.tolist() != changed.indices.tolist()
        assert not torch.equal(first.images, changed.images)


@pytest.mark.parametrize("padding", [None, PADDING])
def test_starting_in_the_middle_gives_the_rest_of_the_epoch(
    demo_shards: Path, padding: Padding | None
) -> None:
    own = loader(demo_shards, transform=SCALED if padding else CROPS, padding=padding)
    whole = indices(own.training(epoch=3))
    assert indices(own.training(epoch=3, start_step=2)) == whole[2:]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_evaluation_covers_the_split_once(demo_shards: Path, world: int) -> None:
    seen = [
        i
        for rank in range(world)
        for batch in indices(
            loader(demo_shards, split="val", rank=rank, world_size=world).evaluation()
        )
        for i in batch
    ]
    assert sorted(seen) == list(range(9))


def test_padded_batches_share_a_shape_that_does_not_depend_on_the_ranks(demo_shards: Path) -> None:
    shapes = {}
    for world in (1, 2):
        for rank in range(world):
            own = loader(
                demo_shards, transform=SCALED, padding=PADDING, rank=rank, world_size=world
            )
            for step, batch in enumerate(own.training(epoch=0)):
                shape = tuple(batch.images.shape[2:])
                assert shapes.setdefault(step, shape) == shape
                assert shape[0] % 32 == shape[1] % 32 == 0
                sizes = batch.targets["image_size"]
                assert (sizes <= torch.tensor(shape)).all()
                landscape = sizes[:, 0] <= sizes[:, 1]
                assert landscape.all() or not landscape.any()


def test_boxes_are_padded_with_a_mask_and_lie_in_their_images(demo_shards: Path) -> None:
    own = loader(demo_shards, transform=SCALED, padding=PADDING)
    stored = own.dataset.reader.annotations
    for batch in own.training(epoch=0):
        boxes, mask = batch.targets["boxes"], batch.targets["box_mask"]
        assert mask.sum(dim=1).tolist() == [len(stored[i].boxes) for i in batch.indices.tolist()]
        assert (boxes[~mask] == 0).all()
        limits = batch.targets["image_size"].flip(1).float()
        assert (boxes[..., 2:] <= limits[:, None] + 1e-3).all()
        assert (boxes[mask][:, 2:] > boxes[mask][:, :2]).all()


def test_a_mirrored_image_has_mirrored_boxes(demo_shards: Path) -> None:
    reader = ShardReader(demo_shards, "train")
    plain = RequestedSamples(reader, RpnTransform(64, 100), 0)
    mirrored = RequestedSamples(reader, SCALED, 0)
    flips = 0
    for request in (
        r for part in loader(demo_shards)._training_parts(np.arange(36), 0) for r in part
    ):
        (_, a, _), (_, b, _) = plain[request], mirrored[request]
        if torch.equal(a.image, b.image):
            assert torch.equal(a.targets["boxes"], b.targets["boxes"])
            continue
        flips += 1
        width = a.image.shape[2]
        assert torch.equal(a.image.flip(2), b.image)
        expected = a.targets["boxes"][:, [2, 1, 0, 3]].clone()
        expected[:, [0, 2]] = width - expected[:, [0, 2]]
        torch.testing.assert_close(expected, b.targets["boxes"])
    assert 5 < flips < 31


def test_a_record_that_states_another_size_than_the_image_has_is_refused(demo_shards: Path) -> None:
    own = loader(demo_shards)
    right = own.dataset.reader.annotations[5]
    own.dataset.reader.annotations[5] = replace(right, width=right.width + 1)
    with pytest.raises(
        UserError, match=rf"{right.key}.* its record states .*make the shards again"
    ):
        list(own.chosen([5]))


def test_annotations_are_the_same_read_one_by_one_or_all_at_once(demo_shards: Path) -> None:
    reader = ShardReader(demo_shards, "train")
    one_by_one = [reader.read(index).annotations for index in range(len(reader))]
    assert reader.annotations is not None
    for index, read in enumerate(one_by_one):
        known = reader.read(index).annotations
        assert known is reader.annotations[index]
        assert (known.key, known.width, known.height) == (read.key, read.width, read.height)
        assert np.array_equal(known.boxes, read.boxes)
        assert np.array_equal(known.difficult, read.difficult)


def test_batches_arrive_in_order_ahead_of_use(demo_shards: Path) -> None:
    own = loader(demo_shards)
    direct = indices(own.training(epoch=0))
    assert indices(ahead_of_use(own.training(epoch=0), torch.device("cpu"))) == direct
    assert list(ahead_of_use(iter([]), torch.device("cpu"))) == []


def test_chosen_samples_come_alone_and_in_order(demo_shards: Path) -> None:
    own = loader(demo_shards, split="val", transform=SCALED, padding=PADDING)
    assert indices(own.chosen([4, 0, 7])) == [[4], [0], [7]]
