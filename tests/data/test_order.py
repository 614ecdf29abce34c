import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocdist.data.order import (
    count_batches,
    epoch_order,
    global_batches,
    in_order_of,
    rank_parts,
    rank_share,
    windowed_order,
)

SAMPLES = st.integers(0, 200)
BATCH = st.integers(1, 33)
WORLD = st.sampled_from([1, 2, 3, 4, 8])
SEED = st.integers(0, 2**31)


@given(SAMPLES, SEED, st.integers(0, 100))
def test_an_epoch_is_a_permutation_that_repeats(samples: int, seed: int, epoch: int) -> None:
    order = epoch_order(samples, seed, epoch)
    assert sorted(order.tolist()) == list(range(samples))
    assert np.array_equal(order, epoch_order(samples, seed, epoch))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(SAMPLES, BATCH, WORLD, SEED)
def test_every_sample_once_and_the_same_steps_on_every_rank(
    samples: int, batch: int, world: int, seed: int
) -> None:
    batches = global_batches(epoch_order(samples, seed, 0), batch)
    shares = [[rank_share(b, rank, world) for b in batches] for rank in range(world)]
    assert len({len(steps) for steps in shares}) == 1
    seen = [int(i) for steps in shares for share in steps for i in share]
    assert sorted(seen) == list(range(samples))


@given(SAMPLES, BATCH, WORLD, SEED)
def test_the_global_order_does_not_depend_on_the_world_size(
    samples: int, batch: int, world: int, seed: int
) -> None:
    order = epoch_order(samples, seed, 3)
    joined = [
        np.concatenate([rank_share(b, rank, world) for rank in range(world)])
        for b in global_batches(order, batch)
    ]
    assert np.array_equal(np.concatenate([*joined, np.array([], dtype=int)]), order)


@given(st.integers(0, 64), WORLD)
def test_shares_differ_by_one_sample_at_most(samples: int, world: int) -> None:
    sizes = [len(rank_share(np.arange(samples), rank, world)) for rank in range(world)]
    assert sum(sizes) == samples
    assert max(sizes) - min(sizes) <= 1


@given(SAMPLES, BATCH, SEED, st.integers(1, 3))
def test_groups_never_mix_and_lose_nothing(samples: int, batch: int, seed: int, kinds: int) -> None:
    groups = np.random.default_rng(seed).integers(kinds, size=samples)
    order = epoch_order(samples, seed, 0)
    batches = global_batches(order, batch, groups=groups, seed=(seed, 0))
    assert sorted(int(i) for b in batches for i in b) == list(range(samples))
    assert all(len(set(groups[b])) == 1 and len(b) <= batch for b in batches)


@given(SAMPLES, BATCH)
def test_drop_last_keeps_whole_batches_only(samples: int, batch: int) -> None:
    batches = global_batches(np.arange(samples), batch, drop_last=True)
    assert [len(b) for b in batches] == [batch] * (samples // batch)
    assert [int(i) for b in batches for i in b] == list(range(samples // batch * batch))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), BATCH, SEED)
def test_drop_last_of_groups_loses_less_than_a_batch_and_no_sample_for_good(
    sizes: list[int], batch: int, seed: int
) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)

    def epoch(number: int) -> list[np.ndarray]:
        order = epoch_order(len(groups), seed, number)
        return global_batches(order, batch, drop_last=True, groups=groups, seed=(seed, number))

    epochs = [epoch(number) for number in range(3)]
    assert len({len(batches) for batches in epochs}) == 1
    for batches in epochs:
        seen = [int(i) for b in batches for i in b]
        assert len(set(seen)) == len(seen) > len(groups) - batch
        assert all(len(set(groups[b])) == 1 and len(b) <= batch for b in batches)
        # A small group is there as a whole, in each epoch.
        rare = [i for i in range(len(groups)) if sizes[groups[i]] < batch]
        assert set(rare) <= set(seen)


def test_drop_last_of_groups_leaves_every_sample_out_at_some_time_and_none_always() -> None:
    groups = np.repeat([0, 1, 2], [13, 11, 3])
    seen = [
        {
            int(i)
            for b in global_batches(
                epoch_order(27, 0, epoch), 8, drop_last=True, groups=groups, seed=(0, epoch)
            )
            for i in b
        }
        for epoch in range(60)
    ]
    assert set.union(*seen) == set(range(27))
    assert set.intersection(*seen) == set(range(24, 27))


def test_grouped_batches_are_shuffled_by_their_seed_alone() -> None:
    groups = np.repeat([0, 1], 50)

    def firsts(*seed: int) -> list[int]:
        batches = global_batches(np.arange(100), 5, groups=groups, seed=seed)
        return [int(b[0]) for b in batches]

    assert firsts() == list(range(0, 100, 5))
    assert firsts(1, 2) == firsts(1, 2)
    assert firsts(1, 2) != firsts(1, 3)
    assert sorted(firsts(1, 2)) == firsts()


@pytest.mark.parametrize("world", [2, 3, 8])
def test_fewer_samples_than_ranks_leaves_some_shares_empty(world: int) -> None:
    shares = [rank_share(np.array([7]), rank, world).tolist() for rank in range(world)]
    assert sorted(shares) == [[]] * (world - 1) + [[7]]


SIZES = st.lists(st.integers(1, 20), max_size=12).map(lambda sizes: np.array(sizes, dtype=np.int64))
WINDOW = st.integers(1, 14)


def shard_of(sizes: np.ndarray) -> np.ndarray:
    """Sample -> its shard."""
    return np.repeat(np.arange(len(sizes)), sizes)


@given(SIZES, SEED, st.integers(0, 100), WINDOW)
def test_a_windowed_order_is_a_permutation_that_repeats(
    sizes: np.ndarray, seed: int, epoch: int, window: int
) -> None:
    order = windowed_order(sizes, seed, epoch, window)
    assert sorted(order.tolist()) == list(range(sizes.sum()))
    assert np.array_equal(order, windowed_order(sizes, seed, epoch, window))


@given(SIZES, SEED, WINDOW)
def test_each_window_is_whole_shards_and_no_more_than_it_may(
    sizes: np.ndarray, seed: int, window: int
) -> None:
    shards = shard_of(sizes)[windowed_order(sizes, seed, 0, window)]
    seen = list(dict.fromkeys(shards.tolist()))
    at, left = 0, set(range(len(sizes)))
    while left:
        # As the first samples of a window may all be of one shard, go by what is left.
        here: set[int] = set()
        end = at
        while end < len(shards) and (len(here | {shards[end]}) <= window):
            here.add(shards[end])
            end += 1
        assert here <= left, f"a shard of {seen} comes back after its window"
        assert end - at == sum(sizes[shard] for shard in here), "a window ends within a shard"
        left -= here
        at = end


@given(SIZES, SEED, WINDOW, BATCH, WORLD)
def test_a_windowed_order_does_not_depend_on_the_world_size(
    sizes: np.ndarray, seed: int, window: int, batch: int, world: int
) -> None:
    order = windowed_order(sizes, seed, 2, window)
    joined = [
        np.concatenate([rank_share(b, rank, world) for rank in range(world)])
        for b in global_batches(order, batch)
    ]
    assert np.array_equal(np.concatenate([*joined, np.array([], dtype=int)]), order)


def test_windows_mix_their_shards_and_change_with_the_epoch() -> None:
    sizes = np.full(6, 10)
    orders = [windowed_order(sizes, 1, epoch, 2) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 4
    for order in orders:
        first = shard_of(sizes)[order[:20]]
        assert len(set(first)) == 2
        assert (np.diff(first) != 0).sum() > 3, "the shards of a window are shuffled together"


@given(SIZES, SEED, WINDOW, BATCH)
def test_grouped_batches_of_windows_lie_in_the_order_of_their_last_sample(
    sizes: np.ndarray, seed: int, window: int, batch: int
) -> None:
    order = windowed_order(sizes, seed, 0, window)
    groups = np.random.default_rng(seed).integers(2, size=len(order))
    batches = in_order_of(order, global_batches(order, batch, groups=groups))
    position = {int(sample): at for at, sample in enumerate(order)}
    last = [max(position[int(i)] for i in b) for b in batches]
    assert last == sorted(last)
    assert sorted(int(i) for b in batches for i in b) == list(range(len(order)))
    assert all(len(set(groups[b])) == 1 for b in batches)


@given(SAMPLES, BATCH, WORLD, st.integers(1, 5), SEED, st.booleans(), st.booleans())
def test_the_parts_of_all_ranks_are_each_batch_once_on_any_number_of_ranks(
    samples: int, batch: int, world: int, parts: int, seed: int, drop_last: bool, grouped: bool
) -> None:
    groups = np.random.default_rng(seed).integers(2, size=samples) if grouped else None
    order = epoch_order(samples, seed, 1)
    batches = global_batches(order, batch, drop_last=drop_last, groups=groups, seed=(seed, 1))
    seen: list[int] = []
    for global_batch in batches:
        ranks = [rank_parts(global_batch, rank, world, parts) for rank in range(world)]
        # Each rank takes part in every all-reduce of the step, with something to compute.
        assert len({len(shares) for shares in ranks}) == 1
        assert all(len(share) for shares in ranks for share, _ in shares)
        alone = rank_parts(global_batch, 0, 1, parts)
        for number, (whole, counts) in enumerate(alone):
            assert counts
            together = [i for shares in ranks for i in _counted(shares[number])]
            assert together == whole.tolist()
            seen += together
    expected = order if not drop_last else np.concatenate([*batches, order[:0]])
    assert sorted(seen) == sorted(expected.tolist())
    assert len(set(seen)) == len(seen)


def _counted(share: tuple[np.ndarray, bool]) -> list[int]:
    return [int(i) for i in share[0]] if share[1] else []


@given(st.lists(st.integers(0, 3), max_size=60), BATCH, st.booleans(), SEED)
def test_batches_are_counted_without_making_them(
    ids: list[int], batch: int, drop_last: bool, seed: int
) -> None:
    order = epoch_order(len(ids), seed, 0)
    for groups in (None, np.array(ids, dtype=np.int64)):
        made = global_batches(order, batch, drop_last=drop_last, groups=groups)
        assert count_batches(len(ids), batch, drop_last, groups) == len(made)
