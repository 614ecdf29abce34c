"""What a trained model of any task says of each image, and in which order."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from vocdist.errors import UserError
from vocdist.inference.images import ImageSource, image_name, input_batches
from vocdist.inference.trained import Trained

Result = TypeVar("Result")

# More of them are counted and not listed.
_LISTED = 20


@dataclass(frozen=True)
class Unreadable:
    """An image that is none, and why."""

    name: str
    reason: str


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
        others = f" (and {len(unreadable) - 1} others)" if len(unreadable) > 1 else ""
        first = unreadable[0]
        raise UserError(f"{first.name}: {first.reason}{others}: leave it out or repair it")
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
