"""A trained Region Proposal Network: where the objects of an image are, of any class."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from vocdist.errors import UserError
from vocdist.inference.answers import Unreadable, answer_each, in_order
from vocdist.inference.images import ImageSource, as_images
from vocdist.inference.trained import Trained, load_trained


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
        self, images: list[ImageSource], *, count: int = 300, batch: int = 8, workers: int = 0
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
