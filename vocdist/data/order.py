"""Which sample is seen when, by whom: pure functions of integers.

Words: a *step* is one optimizer step and trains on one *global batch*, in one or more *parts*; each
rank takes its *share* of a part. Nothing here depends on workers, and the global batches do not
depend on the number of ranks, so a run can go on with another one.
"""

import numpy as np


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation of `range(samples)` for one epoch -> (samples,) int64."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


def windowed_order(shard_sizes: np.ndarray, seed: int, epoch: int, window: int) -> np.ndarray:
    """Permutation of `range(shard_sizes.sum())` that needs `window` shards at a time.

    The shards are permuted; each run of `window` of them is a window, whose samples are permuted
    as one. Samples are numbered through the shards in their own order.

    Args:
        shard_sizes: (shards,) samples of each.
        seed: Of the run.
        epoch: Changes both permutations.
        window: Shards shuffled together; with all of them this is a plain permutation.
    """
    rng = np.random.default_rng([seed, epoch])
    ends = np.cumsum(shard_sizes)
    shards = rng.permutation(len(shard_sizes))
    order = [np.zeros(0, dtype=np.int64)]
    for first in range(0, len(shards), window):
        members = [np.arange(ends[s] - shard_sizes[s], ends[s]) for s in shards[first:][:window]]
        order.append(rng.permutation(np.concatenate(members)))
    return np.concatenate(order)


def in_order_of(order: np.ndarray, batches: list[np.ndarray]) -> list[np.ndarray]:
    """Sort batches of an order by where in it their last sample stands."""
    position = np.empty(order.max(initial=-1) + 1, dtype=np.int64)
    position[order] = np.arange(len(order))
    return sorted(batches, key=lambda batch: int(position[batch].max()))


def global_batches(
    order: np.ndarray,
    global_batch: int,
    *,
    drop_last: bool = False,
    groups: np.ndarray | None = None,
    seed: tuple[int, ...] = (),
) -> list[np.ndarray]:
    """Cut an order into global batches.

    Without groups, batch `s` is `order[s·G : (s+1)·G]`. With groups (one id per sample, such as an
    aspect bucket), a batch holds samples of one group only, each group is cut in its order, and the
    batches are shuffled by `seed` (left group by group when it is empty).

    Every sample of `order` is in exactly one batch; with `drop_last` those of an incomplete last
    batch are in none. Of several groups, each with an incomplete batch, one alone is left out: that
    which comes to its end last in `order`, so that it is another in every epoch. A group that is
    smaller than a batch is never left out, for nobody would ever see it. Either way an epoch loses
    less than a batch, and all epochs have equally many steps.
    """
    if groups is None:
        return _cut(order, global_batch, drop_last)
    batches = [
        batch
        for group in np.unique(groups[order])
        for batch in _cut(order[groups[order] == group], global_batch, drop_last=False)
    ]
    if drop_last:
        batches = _without_one(batches, order, global_batch, groups)
    if seed:
        shuffled = np.random.default_rng(seed).permutation(len(batches))
        batches = [batches[i] for i in shuffled]
    return batches


def count_batches(
    samples: int, global_batch: int, drop_last: bool = False, groups: np.ndarray | None = None
) -> int:
    """How many batches `global_batches` makes of any order of all samples, without one."""
    members = np.array([samples]) if groups is None else np.bincount(groups)
    batches = int((-(-members // global_batch)).sum())
    cut = members % global_batch > 0
    if groups is not None:
        cut &= members >= global_batch
    return batches - int(drop_last and bool(cut.any()))


def rank_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The contiguous part of a global batch that one rank computes.

    Shares differ by at most one sample; with fewer samples than ranks some shares are empty. Put
    together in the order of the ranks they are the batch.
    """
    start = len(batch) * rank // world_size
    return batch[start : len(batch) * (rank + 1) // world_size]


def rank_parts(
    batch: np.ndarray, rank: int, world_size: int, parts: int
) -> list[tuple[np.ndarray, bool]]:
    """What one rank computes of a global batch, part by part -> [(samples, whether they count)].

    The batch is cut into `parts`, and each part shared out: BatchNorm over all ranks then sees the
    same parts on any number of them, and every rank computes equally many. Where a rank's share is
    empty it computes a sample that does not count, since it must take part in each all-reduce.
    """
    shares = []
    for part in np.array_split(batch, min(parts, len(batch))):
        share = rank_share(part, rank, world_size)
        shares.append((share, True) if len(share) else (part[:1], False))
    return shares


def _cut(order: np.ndarray, global_batch: int, drop_last: bool) -> list[np.ndarray]:
    stop = len(order) // global_batch * global_batch if drop_last else len(order)
    return [order[start : start + global_batch] for start in range(0, stop, global_batch)]


def _without_one(
    batches: list[np.ndarray], order: np.ndarray, global_batch: int, groups: np.ndarray
) -> list[np.ndarray]:
    """Leave out the incomplete batch that ends last in `order`, of a group with whole ones too."""
    members = np.bincount(groups[order], minlength=1)
    droppable = [
        batch
        for batch in batches
        if len(batch) < global_batch and members[groups[batch[0]]] >= global_batch
    ]
    if not droppable:
        return batches
    dropped = in_order_of(order, droppable)[-1]
    return [batch for batch in batches if batch is not dropped]
