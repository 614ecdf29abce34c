"""What a model said about the val split, kept in the run folder: a page costs no second pass.

N: images. C: classes. M: boxes of all images. P: proposals kept of all images. K: proposal counts.
Boxes of images are float32 xyxy in [0, 1] of the image's width and height, so that they fit a
picture of any size.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vocdist.files.atomic import replaced_when_done
from vocdist.metrics.proposals import IOU_THRESHOLDS

PREDICTIONS = "predictions.npz"
# Images shown at each end of the ranking.
SHOWN = 8
# Number of proposals by which an image is ranked: that of the RPN's best metric.
RANKED_BY = 200

Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """An image that is shown: its JPEG, made small, and its boxes (G, 4) with class ids (G,)."""

    index: int
    jpeg: bytes
    boxes: Floats
    class_ids: Integers


@dataclass(frozen=True)
class ClassifierPredictions:
    """A classifier's answers.

    Attributes:
        classes: Names, in the order of the columns.
        keys: (N,) of the images.
        scores: (N, C) in [0, 1].
        labels: (N, C), 1 for each class that is present.
        losses: (N,).
    """

    classes: list[str]
    keys: list[str]
    scores: Floats
    labels: npt.NDArray[np.int8]
    losses: Floats

    def best_first(self) -> Integers:
        """Indices of the images, lowest loss first."""
        return np.argsort(self.losses, kind="stable")


@dataclass(frozen=True)
class RpnPredictions:
    """An RPN's answers.

    Attributes:
        classes: Names.
        keys: (N,) of the images.
        losses: (N,).
        counts: (K,) numbers of proposals.
        best: (M, K) best IoU of each box among the first `counts` proposals of its image.
        box_image: (M,) index of each box's image.
        areas: (M,) in stored pixels.
        proposals: (P, 4) the first proposals of each image, best first.
        scores: (P,) in [0, 1].
        proposal_image: (P,) index of each proposal's image.
        anchors: (A, 2) width and height in pixels of the network's input.
        train_sizes: (B, 2) likewise of boxes of the train split, or of a part of them.
    """

    classes: list[str]
    keys: list[str]
    losses: Floats
    counts: Integers
    best: Floats
    box_image: Integers
    areas: Floats
    proposals: Floats
    scores: Floats
    proposal_image: Integers
    anchors: Floats
    train_sizes: Floats

    def at(self, count: int) -> Floats:
        """Best IoU (M,) among the first `count` proposals; `count` is one of `counts`."""
        column: Floats = self.best[:, list(self.counts).index(count)]
        return column

    def recall_of_images(self) -> Floats:
        """AR of each image's boxes with `RANKED_BY` proposals (N,); NaN where it has no box."""
        hits = (self.at(RANKED_BY)[:, None] >= np.asarray(IOU_THRESHOLDS)).mean(axis=1)
        total = np.bincount(self.box_image, weights=hits, minlength=len(self.keys))
        boxes = np.bincount(self.box_image, minlength=len(self.keys))
        with np.errstate(invalid="ignore"):
            return (total / boxes).astype(np.float32)

    def best_first(self) -> Integers:
        """Indices of the images that have a box, highest recall first, then lowest loss."""
        recall = self.recall_of_images()
        order = np.lexsort((self.losses, -recall))
        return order[~np.isnan(recall[order])]


Predictions: TypeAlias = ClassifierPredictions | RpnPredictions


def shown_images(predictions: Predictions) -> tuple[list[int], list[int]]:
    """Indices of the best images, best first, and of the worst, worst first; none is in both."""
    order = predictions.best_first().tolist()
    shown = min(SHOWN, len(order) // 2)
    return order[:shown], order[::-1][:shown]


def save_predictions(path: Path, predictions: Predictions, examples: list[Example]) -> None:
    """Write a NumPy archive without pickles."""
    arrays = {f.name: np.asarray(getattr(predictions, f.name)) for f in fields(predictions)}
    for example in examples:
        name = f"example/{example.index}"
        arrays[f"{name}/jpeg"] = np.frombuffer(example.jpeg, dtype=np.uint8)
        arrays[f"{name}/boxes"] = example.boxes
        arrays[f"{name}/class_ids"] = example.class_ids
    with replaced_when_done(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load_predictions(path: Path) -> tuple[Predictions, list[Example]]:
    """Read what `save_predictions` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        arrays: dict[str, Any] = dict(archive)
    kind = RpnPredictions if "anchors" in arrays else ClassifierPredictions
    values = {f.name: arrays[f.name] for f in fields(kind)}
    for name in ("classes", "keys"):
        values[name] = values[name].tolist()
    indices = [name.split("/")[1] for name in arrays if name.endswith("/jpeg")]
    examples = [
        Example(
            index=int(index),
            jpeg=arrays[f"example/{index}/jpeg"].tobytes(),
            boxes=arrays[f"example/{index}/boxes"],
            class_ids=arrays[f"example/{index}/class_ids"],
        )
        for index in indices
    ]
    return kind(**values), examples
