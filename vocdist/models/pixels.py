"""Pixels as ImageNet's networks want them, computed on the device from uint8."""

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageNetPixels(nn.Module):
    """uint8 RGB (B, 3, H, W) -> float32, per channel `(value / 255 - mean) / std`."""

    def __init__(self) -> None:
        """Constants are buffers, so that they move with the model; no checkpoint holds them."""
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        # (v / 255 - m) / s as one multiply and one add.
        self.register_buffer("factor", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.factor: Tensor
        self.offset: Tensor
        self.memory_format = torch.contiguous_format

    def forward(self, images: Tensor, image_sizes: Tensor | None = None) -> Tensor:
        """Normalise; with `image_sizes` (B, 2) rows (height, width), padding outside becomes 0.

        Zero is the mean colour, and what convolutions see beyond the border anyway.
        """
        pixels = images.to(torch.float32, memory_format=self.memory_format)
        pixels = pixels.mul_(self.factor).add_(self.offset)
        if image_sizes is None:
            return pixels
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside_rows = rows < image_sizes[:, :1]
        inside_columns = columns < image_sizes[:, 1:]
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return pixels.mul_(inside)


def set_channels_last(model: nn.Module, channels_last: bool) -> None:
    """Lay out a model's convolutions, and the pixels it makes, as NHWC or NCHW in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    for module in model.modules():
        if isinstance(module, ImageNetPixels):
            module.memory_format = layout
