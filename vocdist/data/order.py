"""Which sample is seen when, by whom: pure functions of integers.

Words: a *step* is one optimizer step and trains on one *global batch*; each rank takes its *share*
of that, in one or more *parts*. Nothing here depends on workers, and the global batches do not
depend on the number of ranks, so a run can go on with another one.
"""

import numpy as np


def epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation of `range(samples)` for one epoch -> (samples,) int64."""
    return np.random.default_rng([seed, epoch]).permutation(samples)


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
    batch (of each group) are in none.
    """
    if groups is None:
        return _cut(order, global_batch, drop_last)
    batches = [
        batch
        for group in np.unique(groups[order])
        for batch in _cut(order[groups[order] == group], global_batch, drop_last)
    ]
    if seed:
        shuffled = np.random.default_rng(seed).permutation(len(batches))
        batches = [batches[i] for i in shuffled]
    return batches


def rank_share(batch: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """The contiguous part of a global batch that one rank computes.

    Shares differ by at most one sample; with fewer samples than ranks some shares are empty. Put
    together in the order of the ranks they are the batch.
    """
    start = len(batch) * rank // world_size
    return batch[start : len(batch) * (rank + 1) // world_size]


def _cut(order: np.ndarray, global_batch: int, drop_last: bool) -> list[np.ndarray]:
    stop = len(order) // global_batch * global_batch if drop_last else len(order)
    return [order[start : start + global_batch] for start in range(0, stop, global_batch)]
