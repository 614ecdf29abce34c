"""The models as one graph each: from uint8 images to scores, or to scored boxes.

Normalising is inside; decoding, scaling and padding come before it, and top-k and NMS of the boxes
after it, since they differ from image to image.
"""

import numpy as np
import torch
from torch import Tensor, nn

from vocdist.inference.batches import input_batches
from vocdist.inference.trained import Trained
from vocdist.models.pixels import set_channels_last
from vocdist.rpn.anchors import cell_anchors, centres_inside, clip_to_images, level_grid
from vocdist.rpn.box_coding import decode
from vocdist.training.classifier_task import ClassifierTask
from vocdist.training.rpn_task import ProposalModel


class ClassifierGraph(nn.Module):
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


class ProposalGraph(nn.Module):
    """Every anchor's box and score, in the order of `RegionProposalNetwork`.

    `images` (B, 3, H, W) uint8, scaled and padded, and `image_sizes` (B, 2) int64, their (height,
    width) before the padding -> `boxes` (B, A, 4) float32 xyxy within the image, in pixels of the
    input, and `scores` (B, A) in [0, 1], 0 where an anchor is not centred on the image.
    """

    outputs = ("boxes", "scores")

    def __init__(self, model: ProposalModel) -> None:
        """Around a trained model."""
        super().__init__()
        self.model = model
        self._rule = model.rpn.anchor_rule

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Box and score all anchors."""
        output, shapes = self.model([images], image_sizes)
        padded = (images.shape[2], images.shape[3])
        # The model's own grid is kept by size, which a graph for all sizes cannot do.
        levels = zip(shapes, self._rule.scales_per_level, strict=True)
        grid = torch.cat(
            [level_grid(shape, padded, cell_anchors(s, self._rule.ratios)) for shape, s in levels]
        )
        anchors = clip_to_images(grid, image_sizes)
        boxes = clip_to_images(decode(output.deltas, anchors), image_sizes)
        return boxes, output.objectness.sigmoid() * centres_inside(grid, image_sizes)


def export_graph(trained: Trained) -> ClassifierGraph | ProposalGraph:
    """The graph of a trained model, on the CPU and with NCHW weights, as other runtimes want them.

    Changes the model in place.
    """
    model = trained.task.model.cpu()
    set_channels_last(model, False)
    if isinstance(trained.task, ClassifierTask):
        return ClassifierGraph(trained.task).eval()
    assert isinstance(model, ProposalModel)
    return ProposalGraph(model).eval()


def example_size(trained: Trained) -> tuple[int, int]:
    """(height, width) of the input that a photograph of VOC's usual size becomes."""
    photograph = np.zeros((375, 500, 3), dtype=np.uint8)
    inputs = next(input_batches([photograph], trained.view, batch=1))
    assert inputs.batch is not None
    height, width = inputs.batch.images.shape[2:]
    return height, width


def example_inputs(graph: nn.Module, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Random images of a shape, and for proposals sizes that leave some padding."""
    generator = torch.Generator().manual_seed(batch + height + width)
    shape = (batch, 3, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if isinstance(graph, ClassifierGraph):
        return (images,)
    return images, torch.tensor([[height - 5, width], [height, width - 9]]).repeat(batch, 1)[:batch]
