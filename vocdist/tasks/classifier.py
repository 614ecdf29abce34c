"""The multi-label classifier as a task: which classes are present in an image."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from vocdist.config import ClassifierConfig
from vocdist.data.batch import Batch
from vocdist.data.geometry import SCALING_WORDS, Padding, fitting_words
from vocdist.data.transforms import ClassifierEvalTransform, ClassifierTrainTransform, Transform
from vocdist.metrics.classification import (
    best_thresholds,
    multilabel_metrics,
    prior_map,
    tuned_metrics,
    voc_metrics,
)
from vocdist.metrics.tables import classifier_table, measured_classes
from vocdist.models.backbone import load_weights
from vocdist.models.classifier import Classifier, MultilabelLoss
from vocdist.models.layers import ExportGraph
from vocdist.runs.folder import named_weights
from vocdist.runs.predictions import ClassifierPredictions
from vocdist.shards.reader import ShardReader
from vocdist.tasks.task import ModelCard, Record, Task
from vocdist.voc.counts import notes_on_absent

# Of whole frames: sides are multiples of this, and the long one at most so many short ones.
FRAME_MULTIPLE = 32
FRAME_ASPECT = 3


class ClassifierTask(Task):
    """Binary cross entropy over the classes; mean average precision.

    Attributes:
        thresholds: (classes,) chosen on the train split; None before `learn_from_train`.
    """

    config_type = ClassifierConfig
    title = "Multi-label classifier"
    best_metric = "mAP"
    headline = ("mAP", "macro_f1", "sample_f1")
    tiles = (
        ("mAP", "mAP", "mAP_prior", "class frequencies"),
        ("macro_f1", "macro-F1", None, ""),
        ("sample_f1", "sample-F1", None, ""),
        ("loss", "val loss", None, ""),
    )
    curves: ClassVar[Mapping[str, str]] = {
        "val/mAP": "mAP",
        "val/macro_f1": "macro-F1",
        "val/sample_f1": "sample-F1",
    }
    predicts = "classes"
    wants_train_records = True

    def __init__(
        self,
        config: ClassifierConfig,
        classes: Sequence[str],
        model: Classifier,
        loss: MultilabelLoss | None = None,
    ) -> None:
        """Keep the parts; the `loss` of each image is by default the plain one."""
        super().__init__(config, classes, model)
        self._loss = loss or MultilabelLoss()
        self.thresholds: np.ndarray | None = None

    @classmethod
    def build(
        cls,
        config: ClassifierConfig,
        classes: Sequence[str],
        train: ShardReader | None,
        *,
        pretrained: bool,
    ) -> Self:
        """See `Task.build`."""
        settings = config.model
        model = Classifier(
            settings.backbone,
            len(classes),
            settings.batch_norm_momentum,
            settings.dropout,
            settings.sync_batch_norm,
        )
        if pretrained:
            load_weights(model.network, settings.backbone, named_weights(settings.weights))
        if train is None:
            return cls(config, classes, model)
        loss = MultilabelLoss(
            pos_weight=_pos_weight(config.loss.pos_weight, train),
            label_smoothing=config.loss.label_smoothing,
            focus_positive=config.loss.focus_positive,
            focus_negative=config.loss.focus_negative,
            negative_margin=config.loss.negative_margin,
        )
        return cls(config, classes, model, loss)

    @classmethod
    def transform(cls, config: ClassifierConfig, classes: int, *, training: bool) -> Transform:
        """See `Task.transform`."""
        view = config.input
        if not training:
            size = view.eval_size or view.size
            share = view.eval_crop if view.eval_view == "centre" else None
            return ClassifierEvalTransform(classes, size, share)
        return ClassifierTrainTransform(
            classes,
            view.size,
            view.crop_scale,
            view.crop_ratio,
            view.flip,
            view.min_visible,
            view.color_jitter,
        )

    @classmethod
    def padding(cls, config: ClassifierConfig, *, training: bool) -> Padding | None:
        """See `Task.padding`."""
        if training or config.input.eval_view != "frame":
            return None
        # Not padded but stretched a little: padding would be averaged into the pooled features.
        short_side = config.input.eval_size or config.input.size
        sides = short_side, FRAME_ASPECT * short_side, FRAME_MULTIPLE
        return Padding(*sides, snap=True, aspects=config.input.eval_aspects)

    @classmethod
    def notes(cls, train: ShardReader, val: ShardReader) -> list[str]:
        """See `Task.notes`."""
        names = train.manifest.classes
        shown, measured = (
            dict(zip(names, reader.class_images.tolist(), strict=True)) for reader in (train, val)
        )
        return notes_on_absent(shown, measured)

    @classmethod
    def headline_words(cls, metrics: Mapping[str, float]) -> str:
        """See `Task.headline_words`; with the number of classes that are measured, if not all."""
        words, classes = super().headline_words(metrics), measured_classes("mAP", metrics)
        # Beside mAP, the first of `headline`.
        return words.replace("  ", f" ({classes})  ", 1) if classes else words

    @classmethod
    def table(cls, metrics: Mapping[str, float]) -> Table:
        """See `Task.table`."""
        return classifier_table(metrics)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Mean over the classes of an image: `loss` (B,)."""
        color = batch.targets.get("color")
        logits = model(batch.images, batch.seeds, batch.weights > 0, color)
        return {"loss": self._loss_on(logits.device)(logits, batch.targets["labels"])}

    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Scores, labels and whether only difficult objects show it (classes,); and the loss."""
        return self.records_later(model, batch)()

    def records_later(self, model: nn.Module, batch: Batch) -> Callable[[], list[Record]]:
        """See `Task.records_later`."""
        logits, labels = self._measured(model, batch.images), batch.targets["labels"]
        # By itself: what is read later must not keep the pixels of all batches on the device.
        only_difficult = batch.targets["only_difficult"]
        scores, losses = logits.float().sigmoid(), self._loss_on(logits.device)(logits, labels)

        def read() -> list[Record]:
            columns = {
                "scores": scores.cpu().numpy(),
                "labels": labels.cpu().numpy(),
                "only_difficult": only_difficult.cpu().numpy(),
                "loss": losses.cpu().tolist(),
            }
            rows = zip(*columns.values(), strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]

        return read

    def scores(self, model: nn.Module, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> probabilities of presence (B, classes), as measured."""
        return self._measured(model, images).float().sigmoid()

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """mAP, F1 and AP per class, by scikit-learn and by VOC; the mAP of class frequencies.

        With thresholds also the F1 that they give.
        """
        scores, labels = _stacked(records, "scores"), _stacked(records, "labels").astype(np.int8)
        names, thresholds = self.classes, self.thresholds
        return {
            **multilabel_metrics(scores, labels, names),
            **voc_metrics(scores, labels, _stacked(records, "only_difficult"), names),
            **({} if thresholds is None else tuned_metrics(scores, labels, thresholds, names)),
            "mAP_prior": prior_map(labels),
            "loss": float(np.mean([record["loss"] for record in records])),
        }

    def learn_from_train(self, records: Sequence[Record]) -> None:
        """Take the thresholds with the best F1 of each class over the records of a split."""
        self.thresholds = best_thresholds(_stacked(records, "scores"), _stacked(records, "labels"))

    def metadata(self) -> dict[str, str]:
        """See `Task.metadata`."""
        if self.thresholds is None:
            return {}
        return {"thresholds": json.dumps(self.thresholds.tolist())}

    def take_metadata(self, metadata: Mapping[str, str]) -> None:
        """See `Task.take_metadata`."""
        if "thresholds" in metadata:
            self.thresholds = np.asarray(json.loads(metadata["thresholds"]))

    def predictions(
        self, records: Sequence[Record], val: ShardReader, train: ShardReader
    ) -> ClassifierPredictions:
        """See `Task.predictions`."""
        return ClassifierPredictions(
            classes=list(self.classes),
            keys=val.keys,
            scores=_stacked(records, "scores"),
            labels=_stacked(records, "labels").astype(np.int8),
            losses=np.array([record["loss"] for record in records], dtype=np.float32),
        )

    def answers(self, batch: Batch) -> list[Mapping[str, Any]]:
        """Class -> probability of presence."""
        rows = self.scores(self.model, batch.images).cpu().tolist()
        return [{"scores": dict(zip(self.classes, row, strict=True))} for row in rows]

    def graph(self) -> "ClassifierGraph":
        """See `Task.graph`."""
        return ClassifierGraph(self)

    def card(self) -> ModelCard:
        """See `Task.card`."""
        flip = self.config.input.eval_flip
        mirrored = ", of an image and its mirror image together" if flip else ""
        return ModelCard(
            "multi-label classifier",
            "from vocdist import Classifier\n\n"
            'model = Classifier.load("model.safetensors")\n'
            'print(model.predict("photo.jpg")[0].present)',
            ("image-classification", "multi-label"),
            True,
            tuple(_input_words(self.config)),
            f"scores are probabilities of presence{mirrored}, in the order of classes; one is "
            f"present from its threshold on.",
        )

    def _loss_on(self, device: torch.device) -> MultilabelLoss:
        # Copies something the first time alone, when the model has come to its device.
        return self._loss.to(device)

    def _measured(self, model: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = model(images)
        return (logits + model(images.flip(3))) / 2 if self.config.input.eval_flip else logits


def _stacked(records: Sequence[Record], name: str) -> np.ndarray:
    return np.stack([np.asarray(record[name]) for record in records])


def positive_weights(class_images: np.ndarray, samples: int) -> Tensor:
    """Negatives / positives by class, (classes,) images that hold it -> (classes,) float32.

    A class without a positive gets the weight of a class with one; no positive will ever use it.
    """
    positives = np.maximum(class_images, 1)
    return torch.from_numpy((samples - positives) / positives).float()


class ClassifierGraph(ExportGraph):
    """`images` (B, 3, H, W) uint8 -> `scores` (B, classes) float32 in [0, 1]."""

    outputs = ("scores",)

    def __init__(self, task: ClassifierTask) -> None:
        """Around a trained model."""
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, images: Tensor) -> Tensor:
        """Score the images, as evaluation does."""
        return self._task.scores(self.model, images)


def _pos_weight(rule: str, train: ShardReader) -> Tensor | None:
    if rule == "none":
        return None
    ratio = positive_weights(train.class_images, len(train))
    return ratio.sqrt() if rule == "sqrt" else ratio


def _input_words(config: ClassifierConfig) -> list[str]:
    """The sentences for `transform` in evaluation."""
    view = config.input
    side = view.eval_size or view.size
    if view.eval_view == "frame":
        return [fitting_words(side, FRAME_ASPECT * side, FRAME_MULTIPLE, view.eval_aspects)]
    squeezed = f"Scale it to {side} x {side} pixels {SCALING_WORDS}."
    if view.eval_view == "squeezed":
        return [squeezed]
    return [
        f"Cut the square whose side is {view.eval_crop!r} * short side, rounded, and whose top "
        f"left is half of what is left over, rounded down.",
        squeezed,
    ]
