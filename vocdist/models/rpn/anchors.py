"""Anchors, the same K boxes on every cell of every feature level, and boxes as offsets from them.

Ren et al. 2015, Faster R-CNN, section 3.1; the offsets are its equation 2.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

# No box is more than 1000 / 16 times its anchor (torchvision's bound): exp() of what an untrained
# head may give would otherwise overflow.
MAX_LOG_SIZE = math.log(1000 / 16)
# Clipping can leave an anchor without area; a pixel keeps the division and the log finite.
MIN_SIDE = 1.0


def cell_anchors(scales: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Anchors of one cell, centred at the origin -> (K, 4) float32 xyxy pixels on the CPU.

    A scale is the side of the square of equal area, a ratio is height / width. Scales vary
    slowest. Unlike torchvision's, the sides are not rounded to whole pixels.
    """
    sides = []
    for scale in scales:
        for ratio in ratios:
            width = math.sqrt(scale * scale / ratio)
            sides.append((width, width * ratio))
    half = torch.tensor(sides, dtype=torch.float32).reshape(-1, 2) / 2
    return torch.cat([-half, half], dim=1)


def anchor_sizes(scales_per_level: Sequence[Sequence[float]], ratios: Sequence[float]) -> Tensor:
    """(width, height) of a cell's anchors of all levels -> (K, 2) float32 pixels on the CPU."""
    boxes = torch.cat([cell_anchors(scales, ratios) for scales in scales_per_level])
    return boxes[:, 2:] - boxes[:, :2]


def grid_anchors(
    feature_shapes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
    scales_per_level: Sequence[Sequence[float]],
    ratios: Sequence[float],
    device: torch.device,
) -> Tensor:
    """All anchors of a padded input -> (A, 4), reaching over its borders.

    Shapes and sizes are (height, width). A cell is `padded_size / feature_shape` pixels: the
    level's stride where the input is padded to it, fractional where it is not. Made once per
    geometry and kept: do not write into the result.
    """
    if len(feature_shapes) != len(scales_per_level):
        raise ValueError(
            f"{len(feature_shapes)} feature levels but anchor scales for {len(scales_per_level)}: "
            "give one group of scales per level"
        )
    return _cached_grid(
        tuple((int(height), int(width)) for height, width in feature_shapes),
        (int(padded_size[0]), int(padded_size[1])),
        tuple(tuple(scales) for scales in scales_per_level),
        tuple(ratios),
        torch.device(device),
    )


def clip_to_images(boxes: Tensor, image_sizes: Tensor) -> Tensor:
    """Clamp boxes (A, 4) or (B, A, 4) to the valid area of each image, (B, 2) -> (B, A, 4)."""
    width_height = image_sizes.to(boxes.dtype).flip(1)
    limits = torch.cat([width_height, width_height], dim=1)[:, None, :]
    return torch.minimum(boxes.clamp(min=0), limits)


def centres_inside(anchors: Tensor, image_sizes: Tensor) -> Tensor:
    """Whether each unclipped anchor (A, 4) is centred on an image, not its padding -> (B, A)."""
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    inside = (centres >= 0) & (centres < image_sizes.to(anchors.dtype).flip(1)[:, None, :])
    return inside.all(dim=-1)


# No grid is dropped: a CUDA graph goes on reading the one that it was recorded with. There are as
# many as padded sizes, some hundreds of kilobytes each.
@functools.cache
def _cached_grid(
    feature_shapes: tuple[tuple[int, int], ...],
    padded_size: tuple[int, int],
    scales_per_level: tuple[tuple[float, ...], ...],
    ratios: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    # What is first made under inference_mode could never take part in a later training step.
    with torch.inference_mode(False):
        levels = [
            level_grid(shape, padded_size, cell_anchors(scales, ratios))
            for shape, scales in zip(feature_shapes, scales_per_level, strict=True)
        ]
        # A blocking copy would make CUDA wait once for every new shape.
        return torch.cat(levels).to(device, non_blocking=device.type == "cuda")


def level_grid(shape: tuple[int, int], padded_size: tuple[int, int], cell: Tensor) -> Tensor:
    """Shift the cell's anchors (K, 4) to the centre of every cell -> (height * width * K, 4)."""
    height, width = shape
    step_y, step_x = padded_size[0] / height, padded_size[1] / width
    # The notebook's arithmetic to the last bit: anchors around a small box tie for its best IoU,
    # and rounding decides which of them do.
    y = torch.arange(height, dtype=torch.float32) * step_y + step_y / 2
    x = torch.arange(width, dtype=torch.float32) * step_x + step_x / 2
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([grid_x, grid_y, grid_x, grid_y], dim=-1)
    return (centres.reshape(-1, 1, 4) + cell).reshape(-1, 4)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Offsets (..., 4) that take each anchor to its box; sides below a pixel count as one."""
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shifts = (centres - anchor_centres) / anchor_sides
    return torch.cat([shifts, torch.log(sides / anchor_sides)], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy pixels that the offsets make of each anchor; not clipped to an image."""
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    centres = deltas[..., :2] * anchor_sides + anchor_centres
    half = torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SIZE)) * anchor_sides / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=MIN_SIDE)
    return boxes[..., :2] + sides / 2, sides
