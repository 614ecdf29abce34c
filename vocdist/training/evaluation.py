"""Measuring a model on every sample of a split exactly once, on any number of processes."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from vocdist.data.batch import Batch
from vocdist.errors import SharedError
from vocdist.training.accelerator import gather_lists
from vocdist.training.task import Record, Task


class Evaluation(NamedTuple):
    """Metrics of a split, and the record of each of its samples, in the split's order."""

    metrics: dict[str, float]
    records: list[Record]


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, batches: Iterable[Batch], samples: int, accelerator: Accelerator
) -> Evaluation:
    """Metrics over all ranks' batches, the same on every rank (a collective).

    Records travel with the index of their sample and are put into the split's order before
    anything is summed, so the figures do not depend on the number of processes.

    Raises:
        SharedError: A sample's loss is inf or NaN.
        RuntimeError: The ranks together did not see each of the `samples` exactly once.
    """
    was_training = model.training
    model.eval()
    own: list[tuple[int, Record]] = []
    for batch in batches:
        own += zip(batch.indices.tolist(), task.records(model, batch), strict=True)
    model.train(was_training)
    gathered = gather_lists(accelerator, own)
    by_index = dict(gathered)
    if len(gathered) != samples or sorted(by_index) != list(range(samples)):
        raise RuntimeError(
            f"evaluated {len(gathered)} samples, {len(by_index)} of them distinct, of {samples}"
        )
    records = [by_index[index] for index in range(samples)]
    losses = np.array([record["loss"] for record in records], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        raise SharedError(
            f"the loss of {len(bad)} of {samples} samples is not finite in evaluation (the first "
            f"is sample {bad[0]}): these weights are of no use: lower optim.lr, set "
            f"train.clip_norm or use runtime.mixed_precision=fp32"
        )
    return Evaluation(task.metrics(records), records)
