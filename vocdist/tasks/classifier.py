"""The multi-label classifier as a task: which classes are present in an image."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vocdist.data.batch import Batch
from vocdist.metrics.classification import (
    best_thresholds,
    multilabel_metrics,
    prior_map,
    tuned_metrics,
    voc_metrics,
)
from vocdist.models.classifier import Classifier
from vocdist.models.losses import MultilabelLoss
from vocdist.tasks.task import Record


class ClassifierTask:
    """Binary cross entropy over the classes; mean average precision.

    Args:
        model: With one logit a class.
        class_names: In the order of the logits.
        loss: Of each image; by default the plain one.
        eval_flip: Score the mean of an image's logits and its mirror image's.

    Attributes:
        thresholds: (classes,) chosen on the train split; None before `choose_thresholds`.
    """

    best_metric = "mAP"
    headline: tuple[str, ...] = ("mAP", "macro_f1", "sample_f1")

    def __init__(
        self,
        model: Classifier,
        class_names: Sequence[str],
        loss: MultilabelLoss | None = None,
        *,
        eval_flip: bool = False,
    ) -> None:
        """Keep the parts."""
        self.model: nn.Module = model
        self._class_names = tuple(class_names)
        self._loss = loss or MultilabelLoss()
        self._eval_flip = eval_flip
        self.thresholds: np.ndarray | None = None

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Mean over the classes of an image: `loss` (B,)."""
        color = batch.targets.get("color")
        logits = model(batch.images, batch.seeds, batch.weights > 0, color)
        return {"loss": self._loss_on(logits.device)(logits, batch.targets["labels"])}

    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Scores, labels and whether only difficult objects show it (classes,); and the loss."""
        logits, labels = self._measured(model, batch.images), batch.targets["labels"]
        columns = {
            "scores": logits.float().sigmoid().cpu().numpy(),
            "labels": labels.cpu().numpy(),
            "only_difficult": batch.targets["only_difficult"].cpu().numpy(),
            "loss": self._loss_on(logits.device)(logits, labels).cpu().tolist(),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def scores(self, model: nn.Module, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> probabilities of presence (B, classes), as measured."""
        return self._measured(model, images).float().sigmoid()

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """mAP, F1 and AP per class, by scikit-learn and by VOC; the mAP of class frequencies.

        With thresholds also the F1 that they give.
        """
        scores, labels = _stacked(records, "scores"), _stacked(records, "labels").astype(np.int8)
        names, thresholds = self._class_names, self.thresholds
        return {
            **multilabel_metrics(scores, labels, names),
            **voc_metrics(scores, labels, _stacked(records, "only_difficult"), names),
            **({} if thresholds is None else tuned_metrics(scores, labels, thresholds, names)),
            "mAP_prior": prior_map(labels),
            "loss": float(np.mean([record["loss"] for record in records])),
        }

    def choose_thresholds(self, records: Sequence[Record]) -> None:
        """Take the thresholds with the best F1 of each class over the records of a split."""
        self.thresholds = best_thresholds(_stacked(records, "scores"), _stacked(records, "labels"))

    def _loss_on(self, device: torch.device) -> MultilabelLoss:
        # Copies something the first time alone, when the model has come to its device.
        return self._loss.to(device)

    def _measured(self, model: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return (logits + model(images.flip(3))) / 2 if self._eval_flip else logits


def _stacked(records: Sequence[Record], name: str) -> np.ndarray:
    return np.stack([np.asarray(record[name]) for record in records])


def positive_weights(class_images: np.ndarray, samples: int) -> Tensor:
    """Negatives / positives by class, (classes,) images that hold it -> (classes,) float32.

    A class without a positive gets the weight of a class with one; no positive will ever use it.
    """
    positives = np.maximum(class_images, 1)
    return torch.from_numpy((samples - positives) / positives).float()
