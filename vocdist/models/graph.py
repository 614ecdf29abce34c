"""A model as one graph for other runtimes: from uint8 images to results, no Python in between."""

from typing import ClassVar

from torch import nn


class ExportGraph(nn.Module):
    """What ONNX and torch.export files are made of; `forward` takes `images` (B, 3, H, W) uint8.

    Class attributes:
        outputs: Names of what `forward` returns.
        takes_sizes: `forward` also takes `image_sizes` (B, 2) int64, (height, width) in the images.
    """

    outputs: ClassVar[tuple[str, ...]]
    takes_sizes: ClassVar[bool] = False
