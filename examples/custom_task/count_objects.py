r"""A task of your own in one file: how many objects of each class are in an image.

  accelerate launch examples/custom_task/count_objects.py data.shards=shards/demo
  python scripts/evaluate.py runs/counts
  python scripts/predict.py runs/counts photos/

Usage: count_objects.py [CONFIG.yaml] [section.key=value ...] [--debug | --dry-run | --overfit N |
--profile]; start it and the scripts from the root of the repository, from where a run's config
names this file. docs/own-task.md explains each part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from vocdist.cli import config_from_arguments, is_main_process, run_command
from vocdist.config import TaskConfig
from vocdist.config.training import RunConfig
from vocdist.config.values import STRICT, BackboneName, Count
from vocdist.data.batch import Batch
from vocdist.data.geometry import View
from vocdist.data.transforms import Plan, Transform
from vocdist.models.backbone import load_weights
from vocdist.models.classifier import Classifier
from vocdist.shards.format import Annotations
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import Record, Task
from vocdist.training.modes import start, take_mode


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CountInputConfig:
    """The network's input: the whole image, squeezed into a square.

    Attributes:
        size: Side of the square, pixels.
    """

    size: Count = 128


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CountModelConfig:
    """The network: a torchvision model with one output a class.

    Attributes:
        backbone: Name of a torchvision model.
        weights: `imagenet` (torchvision's download), `none`, or the path of a state dict.
    """

    backbone: BackboneName = "mobilenet_v3_small"
    weights: str = "none"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CountConfig(TaskConfig):
    """Settings of this script."""

    run: RunConfig = RunConfig(dir=Path("runs/counts"))
    # Where `evaluate.py` and the other scripts find the task of a run.
    task: Literal["examples/custom_task/count_objects.py:CountTask"] = (
        "examples/custom_task/count_objects.py:CountTask"
    )
    input: CountInputConfig = CountInputConfig()
    model: CountModelConfig = CountModelConfig()


@plain_dataclass(frozen=True)
class CountTransform:
    """The whole image, in training mirrored half of the time; target `counts` (classes,)."""

    classes: int
    size: int
    flip: bool

    def plan(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        rng: np.random.Generator,
        padded: tuple[int, int] | None = None,
    ) -> Plan:
        """See `vocdist.data.transforms.Transform`: everything random comes from `rng`."""
        mirrored = self.flip and rng.random() < 0.5
        view = View((0, 0, *size), (self.size, self.size), mirrored)
        counts = np.bincount(annotations.boxes[:, 0], minlength=self.classes)
        return Plan(view, {"counts": torch.from_numpy(counts).float()})


class CountTask(Task):
    """Poisson regression: the network's outputs are the logarithms of the expected counts."""

    config_type = CountConfig
    title = "Object counter"
    best_metric = "skill"
    headline = ("skill", "mae", "exact")
    tiles = (
        ("skill", "1 - MAE / MAE of the mean", None, ""),
        ("mae", "mean absolute error", "mae_mean", "the mean of each class"),
        ("exact", "counts that are exact", None, ""),
    )
    curves: ClassVar[Mapping[str, str]] = {"val/skill": "skill", "val/exact": "exact"}

    @classmethod
    def build(
        cls,
        config: CountConfig,
        classes: Sequence[str],
        train: ShardReader | None,
        *,
        pretrained: bool,
    ) -> Self:
        """The network with its weights."""
        model = Classifier(config.model.backbone, len(classes), 0.1, sync_batch_norm=True)
        if pretrained:
            load_weights(model.network, config.model.backbone, config.model.weights)
        return cls(config, classes, model)

    @classmethod
    def transform(cls, config: CountConfig, classes: int, *, training: bool) -> Transform:
        """The same view in training and evaluation, but for the mirroring."""
        return CountTransform(classes, config.input.size, flip=training)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Poisson negative log-likelihood of the counts, mean over the classes."""
        logs = model(batch.images, batch.seeds, batch.weights > 0)
        return {"loss": _loss(logs, batch.targets["counts"])}

    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Of each image: expected and true counts, and the loss."""
        logs, counts = model(batch.images), batch.targets["counts"]
        columns = (logs.float().exp().cpu().numpy(), counts.cpu().numpy())
        losses = _loss(logs, counts).cpu().tolist()
        return [
            {"expected": expected, "counts": true, "loss": loss}
            for expected, true, loss in zip(*columns, losses, strict=True)
        ]

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """Errors of the expected counts, beside those of each class's mean over the split."""
        expected = np.stack([np.asarray(record["expected"]) for record in records])
        counts = np.stack([np.asarray(record["counts"]) for record in records])
        error = float(np.abs(expected - counts).mean())
        of_mean = float(np.abs(counts.mean(axis=0) - counts).mean())
        return {
            "skill": 1 - error / of_mean if of_mean else 0.0,
            "mae": error,
            "mae_mean": of_mean,
            "exact": float((expected.round() == counts).mean()),
            "loss": float(np.mean([record["loss"] for record in records])),
            "samples": float(len(records)),
        }

    def answers(self, batch: Batch) -> list[Mapping[str, Any]]:
        """Class -> expected number of objects."""
        rows = self.model(batch.images).float().exp().cpu().tolist()
        return [{"counts": dict(zip(self.classes, row, strict=True))} for row in rows]


def _loss(logs: Tensor, counts: Tensor) -> Tensor:
    # exp of an untrained network's outliers is no number to learn from.
    logs = logs.float().clamp(max=6.0)
    return F.poisson_nll_loss(logs, counts, reduction="none").mean(dim=1)


def main(arguments: list[str]) -> None:
    """Train, then print the best epoch's metrics."""
    mode, arguments = take_mode(arguments)
    config = config_from_arguments(CountConfig, arguments, None)
    metrics = start(config, mode)
    if metrics and is_main_process():
        print(f"skill {metrics['skill']:.3f}, the run is in {config.run.dir}")


if __name__ == "__main__":
    run_command(main, __doc__, CountConfig, debug_is_mode=True)
