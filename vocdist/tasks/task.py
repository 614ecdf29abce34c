"""What the loop asks of a task; the classifier and the RPN are the two there are."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from vocdist.data.batch import Batch

Record = Mapping[str, object]


class Task(Protocol):
    """A model, its losses, and what is measured.

    Attributes:
        model: All weights, frozen ones too; what `forward` computes goes through DDP.
        best_metric: Name of the metric whose maximum marks the best checkpoint.
        headline: Names of the metrics that stand in the line of an epoch.
    """

    model: nn.Module
    best_metric: str
    headline: tuple[str, ...]

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Loss of each sample, (B,) each; `loss` is their total, the one to differentiate.

        `model` is `self.model`, perhaps wrapped. Nothing here may wait for the device.
        """
        ...

    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """One record per sample with its `loss` and all that `metrics` needs, on the CPU."""
        ...

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """Metrics over the records of a whole split, in the order of the samples."""
        ...
