"""Boxes, class names and proposals drawn on images.

Boxes are (N, 4) arrays of xyxy pixels in the frame of the image they are drawn on, half-open: the
box (10, 10, 20, 20) covers the pixels 10 to 19. Every function returns a new RGB image.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageColor, ImageDraw

from vocdist.report.labels import Area, draw_labels

GROUND_TRUTH_COLOR = "#22c55e"
PROPOSAL_COLOR = "#ef4444"
# Told apart on photographs and by most colour-blind eyes; the class id picks one, cyclically.
PALETTE = (
    "#38bdf8",
    "#fb923c",
    "#4ade80",
    "#f472b6",
    "#facc15",
    "#a78bfa",
    "#2dd4bf",
    "#f87171",
    "#a3e635",
    "#e2e8f0",
)


def draw_boxes(
    image: Image.Image,
    boxes: ArrayLike,
    *,
    colors: str | Sequence[str] = GROUND_TRUTH_COLOR,
    labels: Sequence[str] | None = None,
    width: int | None = None,
) -> Image.Image:
    """Draw boxes (N, 4) with their names.

    Args:
        image: Any size and mode.
        boxes: xyxy pixels; parts outside the image are cut off.
        colors: One for all boxes, or one for each.
        labels: N texts; an empty one is left out.
        width: Line width in pixels; by default it grows with the image.
    """
    canvas = image.convert("RGB")
    areas = _areas(boxes, canvas.size)
    box_colors = [colors] * len(areas) if isinstance(colors, str) else list(colors)
    _check_length("colors", box_colors, areas)
    draw = ImageDraw.Draw(canvas)
    line_width = width or _line_width(canvas.size)
    # Large boxes first, so that a small one is never hidden by a large one's line.
    order = sorted(range(len(areas)), key=lambda i: -_size(areas[i]))
    for i in order:
        _outline(draw, areas[i], box_colors[i], line_width)
    if labels is not None:
        _check_length("labels", labels, areas)
        # After all boxes, so that no line crosses a name.
        draw_labels(draw, canvas.size, [(areas[i], labels[i], box_colors[i]) for i in order])
    return canvas


def draw_proposals(
    image: Image.Image,
    proposals: ArrayLike,
    gt_boxes: ArrayLike,
    *,
    gt_labels: Sequence[str] | None = None,
    opacity: float = 0.45,
) -> Image.Image:
    """Draw proposals (P, 4) as thin red lines and, on top, ground truth (G, 4) in green.

    Lines of proposals that lie on each other add up, so that red grows where proposals agree.

    Args:
        image: The image in whose frame both sets of boxes are.
        proposals: xyxy pixels.
        gt_boxes: xyxy pixels.
        gt_labels: G class names.
        opacity: Of a single proposal's line, in (0, 1].
    """
    canvas = image.convert("RGB")
    # Drawing in mode RGBA on an RGB image blends instead of replacing.
    draw = ImageDraw.Draw(canvas, "RGBA")
    ink = (*ImageColor.getrgb(PROPOSAL_COLOR)[:3], round(255 * opacity))
    thin = max(1, _line_width(canvas.size) // 2)
    for area in _areas(proposals, canvas.size):
        _outline(draw, area, ink, thin)
    return draw_boxes(canvas, gt_boxes, labels=gt_labels)


def contact_sheet(
    images: Sequence[Image.Image],
    columns: int,
    *,
    cell_size: tuple[int, int] = (480, 360),
    gap: int = 8,
) -> Image.Image:
    """Lay images out in rows on white, each scaled to fit a cell and centred in it.

    Args:
        images: At least one, of any sizes.
        columns: Images in a row.
        cell_size: (width, height) in pixels; a row of flatter images is as high as the highest.
        gap: Pixels between cells and around the sheet.
    """
    if not images or columns < 1:
        raise ValueError(
            f"cannot lay out {len(images)} images in {columns} columns: pass at least one of each"
        )
    fitted = [_fit(image.convert("RGB"), cell_size) for image in images]
    rows = [fitted[start : start + columns] for start in range(0, len(fitted), columns)]
    heights = [max(image.height for image in row) for row in rows]
    used_columns = min(columns, len(images))
    width = gap + used_columns * (cell_size[0] + gap)
    sheet = Image.new("RGB", (width, gap + sum(heights) + gap * len(rows)), "white")
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            left = gap + column * (cell_size[0] + gap) + (cell_size[0] - image.width) // 2
            sheet.paste(image, (left, top + (height - image.height) // 2))
        top += height + gap
    return sheet


def class_colors(class_ids: Sequence[int]) -> list[str]:
    """A color for each class id, the same wherever the class occurs."""
    return [PALETTE[class_id % len(PALETTE)] for class_id in class_ids]


def _areas(boxes: ArrayLike, size: tuple[int, int]) -> list[Area]:
    """Round boxes (N, 4) to whole pixels inside the image; each covers at least one pixel."""
    rows = np.asarray(boxes, dtype=np.float64)
    if rows.size == 0:
        return []
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"boxes of shape {rows.shape} are not (N, 4) xyxy: leave out class ids")
    width, height = size
    low = np.clip(np.round(rows[:, :2]), 0, (width - 1, height - 1))
    high = np.maximum(np.clip(np.round(rows[:, 2:]), 0, (width, height)), low + 1)
    return [tuple(row) for row in np.concatenate([low, high], axis=1).astype(int).tolist()]


def _outline(draw: ImageDraw.ImageDraw, area: Area, ink: str | tuple[int, ...], width: int) -> None:
    x1, y1, x2, y2 = area
    # A line thicker than the box would be drawn beyond it.
    width = min(width, (x2 - x1 + 1) // 2, (y2 - y1 + 1) // 2)
    # Pillow includes the last row and column; ours are half-open.
    draw.rectangle((x1, y1, x2 - 1, y2 - 1), outline=ink, width=width)


def _size(area: Area) -> int:
    return (area[2] - area[0]) * (area[3] - area[1])


def _line_width(size: tuple[int, int]) -> int:
    return max(2, round(min(size) / 180))


def _fit(image: Image.Image, cell_size: tuple[int, int]) -> Image.Image:
    scale = min(cell_size[0] / image.width, cell_size[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _check_length(name: str, values: Sequence[object], areas: Sequence[Area]) -> None:
    if len(values) != len(areas):
        raise ValueError(f"{len(values)} {name} for {len(areas)} boxes: pass one for each box")
