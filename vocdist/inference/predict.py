"""Trained models on images: which classes are in them, and where objects of any class are."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch

from vocdist.errors import UserError
from vocdist.inference.files import Unreadable, first_of
from vocdist.inference.images import ImageSource, as_images, image_name, input_batches
from vocdist.inference.trained import Trained, load_trained

Result = TypeVar("Result")
# More of them are counted and not listed.
_LISTED = 20
DEFAULT_THRESHOLD = 0.5


def by_position(
    results: Iterable[tuple[int, Result | Unreadable]],
) -> tuple[list[Result], list[Unreadable]]:
    """(position, result) pairs -> the results and what could not be read, both by position."""
    found: list[Result] = []
    unreadable: list[Unreadable] = []
    for _, result in sorted(results, key=lambda pair: pair[0]):
        if isinstance(result, Unreadable):
            unreadable.append(result)
        else:
            found.append(result)
    return found, unreadable


def in_order(results: Iterable[tuple[int, Result | Unreadable]]) -> list[Result]:
    """(position, result) pairs -> the results by position.

    Raises:
        UserError: An image could not be read; the message names the first and counts the others.
    """
    found, unreadable = by_position(results)
    if unreadable:
        raise UserError(f"{first_of(unreadable)}: leave it out or repair it")
    return found


def exit_if_unreadable(unreadable: Sequence[Unreadable]) -> None:
    """Name what was left out and end with exit code 1; do nothing where nothing was."""
    if not unreadable:
        return
    print(f"left out, since they cannot be read: {len(unreadable):,}", file=sys.stderr)
    for bad in unreadable[:_LISTED]:
        print(f"  {bad.name}: {bad.reason}", file=sys.stderr)
    if len(unreadable) > _LISTED:
        print(f"  and {len(unreadable) - _LISTED:,} more", file=sys.stderr)
    sys.exit(1)


@dataclass(frozen=True)
class Answer:
    """What a model says of one image.

    Attributes:
        name: Path of the file, or `image N` for what has none.
        size_hw: (height, width) of the stored image, pixels.
        values: See the task's `answers`.
    """

    name: str
    size_hw: tuple[int, int]
    values: Mapping[str, Any]


@torch.inference_mode()
def answer_each(
    trained: Trained, images: Sequence[ImageSource], *, batch: int, workers: int
) -> Iterator[tuple[int, Answer | Unreadable]]:
    """Every image's position and answer as they become ready; nothing is raised for one image.

    `workers` processes read them, `batch` of one network shape are computed at once.
    """
    for inputs in input_batches(list(images), trained.view, batch=batch, workers=workers):
        for position, reason in inputs.unreadable.items():
            yield position, Unreadable(image_name(images[position], position), reason)
        if inputs.batch is None:
            continue
        answers = trained.task.answers(inputs.batch.to(trained.device))
        sizes = zip(inputs.batch.indices.tolist(), inputs.sizes, strict=True)
        for (position, size), values in zip(sizes, answers, strict=True):
            yield position, Answer(image_name(images[position], position), size, values)


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        name: Path of the file, or `image N` for what has none.
        scores: Class name -> probability of presence in [0, 1], the most probable first.
        present: The classes that reach their threshold, the most probable first.
    """

    name: str
    scores: Mapping[str, float]
    present: tuple[str, ...]


class Classifier:
    """Says which classes are in images; make one with `Classifier.load`.

    Attributes:
        trained: The model and its settings.
        classes: Their names.
        thresholds: Class name -> the score from which on it counts as present.
    """

    def __init__(self, trained: Trained) -> None:
        """Take over a loaded model; `Classifier.load` is the usual way."""
        if trained.task.predicts != "classes":
            raise UserError(
                f"{trained.weights}: its task is {trained.task.title}, which knows no "
                f"classes: use scripts/propose.py where it proposes boxes"
            )
        self.trained = trained
        self.classes = trained.classes
        unset = dict.fromkeys(trained.classes, DEFAULT_THRESHOLD)
        # One number for each class, where the run chose some.
        numbers = json.loads(trained.task.metadata().get("thresholds", "[]"))
        self.thresholds = unset | dict(zip(trained.classes, numbers, strict=bool(numbers)))

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> Self:
        """Of a run folder or a `model.safetensors`; see `load_trained`."""
        return cls(load_trained(source, device))

    def predict(
        self, images: ImageSource | Iterable[ImageSource], *, batch: int = 32, workers: int = 0
    ) -> list[Prediction]:
        """One prediction per image, in their order.

        Images are paths (of files, folders, patterns), PIL images, uint8 arrays (H, W, 3) or
        tensors (3, H, W), of any sizes; one or many. `workers` processes read them.

        Raises:
            UserError: An image cannot be read.
        """
        return in_order(self.predict_each(as_images(images), batch=batch, workers=workers))

    def predict_each(
        self, images: Sequence[ImageSource], *, batch: int = 32, workers: int = 0
    ) -> Iterator[tuple[int, Prediction | Unreadable]]:
        """Every image's position and prediction as they become ready; nothing is raised for one."""
        for position, answer in answer_each(self.trained, images, batch=batch, workers=workers):
            yield position, answer if isinstance(answer, Unreadable) else self._prediction(answer)

    def _prediction(self, answer: Answer) -> Prediction:
        best_first = sorted(answer.values["scores"].items(), key=lambda pair: -pair[1])
        present = tuple(c for c, score in best_first if score >= self.thresholds[c])
        return Prediction(answer.name, dict(best_first), present)


@dataclass(frozen=True)
class ImageProposals:
    """An image's proposals, best first.

    Attributes:
        name: Path of the file, or `image N` for what has none.
        size_hw: The image's (height, width) in stored pixels.
        boxes: (K, 4) float32 xyxy, half-open, in stored pixels.
        scores: (K,) float32 objectness in [0, 1].
    """

    name: str
    size_hw: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray


class RegionProposalNetwork:
    """Proposes boxes around objects; make one with `RegionProposalNetwork.load`.

    Attributes:
        trained: The model and its settings.
    """

    def __init__(self, trained: Trained) -> None:
        """Take over a loaded model; `RegionProposalNetwork.load` is the usual way."""
        if trained.task.predicts != "boxes":
            raise UserError(
                f"{trained.weights}: its task is {trained.task.title}, "
                f"which proposes no boxes: use scripts/predict.py"
            )
        self.trained = trained

    @classmethod
    def load(cls, source: str | Path, device: str = "auto") -> Self:
        """Of a run folder or a `model.safetensors`; see `load_trained`."""
        return cls(load_trained(source, device))

    def propose(
        self,
        images: ImageSource | Iterable[ImageSource],
        *,
        count: int = 300,
        batch: int = 8,
        workers: int = 0,
    ) -> list[ImageProposals]:
        """The `count` (up to 300) best boxes per image, or all that NMS leaves, by image.

        Images are paths (of files, folders, patterns), PIL images, uint8 arrays (H, W, 3) or
        tensors (3, H, W), of any sizes; one or many. `workers` processes read them.

        Raises:
            UserError: An image cannot be read.
        """
        found = self.propose_each(as_images(images), count=count, batch=batch, workers=workers)
        return in_order(found)

    def propose_each(
        self, images: Sequence[ImageSource], *, count: int = 300, batch: int = 8, workers: int = 0
    ) -> Iterator[tuple[int, ImageProposals | Unreadable]]:
        """Every image's position and proposals as they become ready; nothing is raised for one."""
        if count < 1:
            raise UserError(f"count={count}: ask for 1 box or more")
        for position, answer in answer_each(self.trained, images, batch=batch, workers=workers):
            if isinstance(answer, Unreadable):
                yield position, answer
                continue
            boxes, scores = answer.values["boxes"][:count], answer.values["scores"][:count]
            yield position, ImageProposals(answer.name, answer.size_hw, boxes, scores)
