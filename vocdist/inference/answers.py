"""What a trained model of any task says of each image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vocdist.inference.images import ImageSource, image_name, input_batches
from vocdist.inference.results import Unreadable
from vocdist.inference.trained import Trained


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
