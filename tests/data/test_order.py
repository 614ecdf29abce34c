import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vocdist.data.order import epoch_order, global_batches, rank_share

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
