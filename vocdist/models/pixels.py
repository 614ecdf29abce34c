"""Pixels as ImageNet's networks want them, computed on the device from uint8."""

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Rec. 601: the gray that torchvision's colour transforms blend with.
LUMA = (0.2989, 0.587, 0.114)


class ImageNetPixels(nn.Module):
    """uint8 RGB (B, 3, H, W) -> float32, per channel `(value / 255 - mean) / std`."""

    def __init__(self) -> None:
        """Constants are buffers, so that they move with the model; no checkpoint holds them."""
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        # (v / 255 - m) / s as one multiply and one add.
        self.register_buffer("factor", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA), persistent=False)
        self.factor: Tensor
        self.offset: Tensor
        self.luma: Tensor
        self.memory_format = torch.contiguous_format

    def forward(
        self, images: Tensor, image_sizes: Tensor | None = None, color: Tensor | None = None
    ) -> Tensor:
        """Normalise; with `image_sizes` (B, 2) rows (height, width), padding outside becomes 0.

        Zero is the mean colour, and what convolutions see beyond the border anyway. `color` (B, 3)
        are factors of brightness, contrast and saturation, see `jitter_color`.
        """
        pixels = images.to(torch.float32, memory_format=self.memory_format)
        if color is not None:
            pixels = jitter_color(pixels, color, self.luma)
            pixels = pixels.contiguous(memory_format=self.memory_format)
        pixels = pixels.mul_(self.factor).add_(self.offset)
        if image_sizes is None:
            return pixels
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside_rows = rows < image_sizes[:, :1]
        inside_columns = columns < image_sizes[:, 1:]
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return pixels.mul_(inside)


def jitter_color(pixels: Tensor, color: Tensor, luma: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of (B, 3, H, W) by factors (B, 3), in this order.

    `luma` (3,) are the colours' shares in gray, on the device: a constant made here would be a copy
    that CUDA waits for.

    As torchvision's ColorJitter blends, but in one pass: the three are one affine map of a pixel's
    colour, and nothing is clipped to the range of uint8. The result is NHWC in memory.
    """
    brightness, contrast, saturation = color.to(pixels.dtype).view(-1, 3, 1, 1).unbind(1)
    mean_gray = pixels.mean(dim=(2, 3)) @ luma
    scale = brightness * contrast
    # Each colour: saturation of it and the rest of the gray; then contrast's part of the mean.
    mixed = (scale * saturation) * torch.eye(3, device=pixels.device)
    mixed = mixed + (scale * (1 - saturation)) * luma
    offset = (brightness * (1 - contrast)).view(-1) * mean_gray
    turned = pixels.permute(0, 2, 3, 1) @ mixed.mT[:, None]
    return turned.permute(0, 3, 1, 2).add_(offset.view(-1, 1, 1, 1))


def set_channels_last(model: nn.Module, channels_last: bool) -> None:
    """Lay out a model's convolutions, and the pixels it makes, as NHWC or NCHW in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    for module in model.modules():
        if isinstance(module, ImageNetPixels):
            module.memory_format = layout
