"""A trained multi-label classifier: which classes are in an image."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vocdist.errors import UserError
from vocdist.inference.answers import Answer, Unreadable, answer_each, in_order
from vocdist.inference.images import ImageSource, as_images
from vocdist.inference.trained import Trained, load_trained

DEFAULT_THRESHOLD = 0.5


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
        self, images: list[ImageSource], *, batch: int = 32, workers: int = 0
    ) -> Iterator[tuple[int, Prediction | Unreadable]]:
        """Every image's position and prediction as they become ready; nothing is raised for one."""
        for position, answer in answer_each(self.trained, images, batch=batch, workers=workers):
            yield position, answer if isinstance(answer, Unreadable) else self._prediction(answer)

    def _prediction(self, answer: Answer) -> Prediction:
        best_first = sorted(answer.values["scores"].items(), key=lambda pair: -pair[1])
        present = tuple(c for c, score in best_first if score >= self.thresholds[c])
        return Prediction(answer.name, dict(best_first), present)
