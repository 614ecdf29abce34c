"""A trained Region Proposal Network: where the objects of an image are, of any class."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from vocdist.config import RpnConfig
from vocdist.errors import UserError
from vocdist.inference.images import ImageSource, as_images, image_name, input_batches
from vocdist.inference.results import Unreadable, in_order
from vocdist.inference.trained import Trained, load_trained
from vocdist.tasks.rpn import RpnTask


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
        if not isinstance(trained.config, RpnConfig):
            raise UserError(
                f"{trained.weights}: holds a classifier, which proposes no boxes: load it with "
                f"Classifier.load, or use scripts/predict.py"
            )
        assert isinstance(trained.task, RpnTask)
        self._task = trained.task
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

    @torch.inference_mode()
    def propose_each(
        self, images: list[ImageSource], *, count: int = 300, batch: int = 8, workers: int = 0
    ) -> Iterator[tuple[int, ImageProposals | Unreadable]]:
        """Every image's position and proposals as they become ready; nothing is raised for one."""
        if count < 1:
            raise UserError(f"count={count}: ask for 1 box or more")
        task = self._task
        for inputs in input_batches(images, self.trained.view, batch=batch, workers=workers):
            for position, reason in inputs.unreadable.items():
                yield position, Unreadable(image_name(images[position], position), reason)
            if inputs.batch is None:
                continue
            on_device = inputs.batch.to(self.trained.device)
            output, shapes = task.model(on_device.inputs, on_device.targets["image_size"])
            proposals = task.propose(output, shapes, on_device)
            sizes = zip(
                inputs.batch.targets["stored_size"], inputs.batch.targets["image_size"], strict=True
            )
            for position, found, (stored, scaled) in zip(
                inputs.batch.indices.tolist(), proposals, sizes, strict=True
            ):
                # (height, width) twice reversed is (width, height, width, height): xyxy's order.
                factors = (stored / scaled).flip(0).repeat(2).numpy()
                yield (
                    position,
                    ImageProposals(
                        name=image_name(images[position], position),
                        size_hw=(int(stored[0]), int(stored[1])),
                        boxes=found.boxes[:count].cpu().numpy() * factors,
                        scores=found.scores[:count].cpu().numpy(),
                    ),
                )
