"""The multi-label classifier as a task: which classes are present in an image."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocdist.data.dataset import Batch
from vocdist.metrics.multilabel import multilabel_metrics, prior_map
from vocdist.models.classifier import Classifier
from vocdist.training.task import Record


class ClassifierTask:
    """Binary cross entropy over the classes; mean average precision.

    Args:
        model: With one logit a class.
        class_names: In the order of the logits.
        pos_weight: (classes,) factor of each class's positives in the loss; None for 1.
    """

    best_metric = "mAP"
    headline: tuple[str, ...] = ("mAP", "macro_f1", "sample_f1")

    def __init__(
        self, model: Classifier, class_names: Sequence[str], pos_weight: Tensor | None = None
    ) -> None:
        """Keep the parts."""
        self.model: nn.Module = model
        self._class_names = tuple(class_names)
        self._pos_weight = pos_weight

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Mean over the classes of an image: `loss` (B,)."""
        logits = model(batch.images, batch.seeds, batch.weights > 0)
        return {"loss": self._loss(logits, batch.targets["labels"])}

    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Scores and labels (classes,) and the loss of each image."""
        logits, labels = model(batch.images), batch.targets["labels"]
        losses = self._loss(logits, labels).cpu()
        return [
            {"scores": s, "labels": t, "loss": float(loss)}
            for s, t, loss in zip(
                logits.float().sigmoid().cpu().numpy(), labels.cpu().numpy(), losses, strict=True
            )
        ]

    def scores(self, model: nn.Module, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> probabilities of presence (B, classes), as measured."""
        logits: Tensor = model(images)
        return logits.float().sigmoid()

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """mAP, F1, AP per class, and the mAP of knowing no more than the class frequencies."""
        scores = np.stack([np.asarray(record["scores"]) for record in records])
        labels = np.stack([np.asarray(record["labels"]) for record in records]).astype(np.int8)
        return {
            **multilabel_metrics(scores, labels, self._class_names),
            "mAP_prior": prior_map(labels),
            "loss": float(np.mean([record["loss"] for record in records])),
        }

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = None if self._pos_weight is None else self._pos_weight.to(logits.device)
        by_class = F.binary_cross_entropy_with_logits(
            logits.float(), labels, pos_weight=weight, reduction="none"
        )
        return by_class.mean(dim=1)


def positive_weights(class_images: np.ndarray, samples: int) -> Tensor:
    """Negatives / positives by class, (classes,) images that hold it -> (classes,) float32.

    A class without a positive gets the weight of a class with one; no positive will ever use it.
    """
    positives = np.maximum(class_images, 1)
    return torch.from_numpy((samples - positives) / positives).float()
