"""Images of any size in batches that a model can take: evaluation's transform, in loader workers.

Only images of one network shape share a batch, so a result never depends on an image's neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vocdist.data.batch import Batch, SampleRequest, collate
from vocdist.data.transforms import Example
from vocdist.data.workers import usable_cores
from vocdist.errors import UserError
from vocdist.inference.images import ImageSource, image_pixels, image_size
from vocdist.shards.record import Annotations
from vocdist.training.views import EvaluationView


@dataclass(frozen=True)
class InputBatch:
    """Some of the images, with what could not be read of them.

    Attributes:
        batch: Ready for the model; its indices are positions in the list of images; None when
            nothing could be read.
        unreadable: Position -> reason.
    """

    batch: Batch | None
    unreadable: dict[int, str]


def input_batches(
    images: Sequence[ImageSource], view: EvaluationView, *, batch: int, workers: int = 0
) -> Iterator[InputBatch]:
    """Every image once, in batches of at most `batch`; those that cannot be read with a reason.

    Raises:
        UserError: A number that cannot be.
    """
    if batch < 1 or workers < 0:
        raise UserError(f"batch={batch}, workers={workers}: a batch has 1 image or more, workers 0")
    unreadable: dict[int, str] = {}
    by_shape: dict[tuple[int, int] | None, list[int]] = {}
    for position, image in enumerate(images):
        try:
            shape = view.shape(image_size(image))
        except UserError as error:
            unreadable[position] = str(error)
        else:
            by_shape.setdefault(shape, []).append(position)
    if unreadable:
        yield InputBatch(None, unreadable)
    parts = [
        [(position, shape) for position in positions[start : start + batch]]
        for shape, positions in by_shape.items()
        for start in range(0, len(positions), batch)
    ]
    yield from DataLoader(
        _Inputs(images, view),
        batch_sampler=parts,
        collate_fn=_collate,
        num_workers=min(workers, usable_cores()),
        generator=torch.Generator(),
    )


class _Inputs(Dataset[tuple[int, Example | str]]):
    """(position, shape) -> the example, or why there is none."""

    def __init__(self, images: Sequence[ImageSource], view: EvaluationView) -> None:
        self._images = images
        self._view = view

    def __getitem__(self, request: tuple[int, tuple[int, int] | None]) -> tuple[int, Example | str]:
        position, shape = request
        try:
            pixels = image_pixels(self._images[position])
        except UserError as error:
            return position, str(error)
        height, width = pixels.shape[1:]
        no_boxes = np.zeros((0, 5), np.int32)
        unknown = Annotations(str(position), width, height, no_boxes, np.zeros(0, bool))
        return position, self._view.example(pixels, unknown, shape)


def _collate(items: Sequence[tuple[int, Example | str]]) -> InputBatch:
    unreadable = {position: made for position, made in items if isinstance(made, str)}
    readable = [
        (SampleRequest(position, epoch=0), made, 0)
        for position, made in items
        if isinstance(made, Example)
    ]
    return InputBatch(collate(readable) if readable else None, unreadable)
