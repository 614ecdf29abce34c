"""Boxes, labels and scores drawn on images, and contact sheets of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageColor, ImageDraw, ImageFont

Area = tuple[int, int, int, int]  # xyxy pixels, half-open


def draw_labels(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], boxes: Sequence[tuple[Area, str, str]]
) -> None:
    """Write each box's name on a tag at its corner, where it covers no other tag.

    Args:
        draw: Draws on an RGB image.
        size: (width, height) of that image in pixels; the text grows with it.
        boxes: (area, text, color) of each box; an empty text gets no tag.
    """
    text_size = int(np.clip(min(size) / 26, 11, 24))
    font = ImageFont.load_default(text_size)
    pad = max(2, text_size // 5)
    # From the font and not from the text, so that all tags are equally high.
    ascent, descent = (round(metric) for metric in _metrics(font, text_size))
    placed: list[Area] = []
    for area, text, color in boxes:
        if not text:
            continue
        width = round(draw.textlength(text, font=font)) + 2 * pad
        tag = _place(area, (width, ascent + descent + pad), size, placed)
        placed.append(tag)
        draw.rectangle((tag[0], tag[1], tag[2] - 1, tag[3] - 1), fill=color)
        baseline = (tag[0] + pad, tag[1] + pad // 2 + ascent)
        draw.text(baseline, text, fill=_text_color(color), font=font, anchor="ls")


def _metrics(
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont, text_size: int
) -> tuple[float, float]:
    if isinstance(font, ImageFont.FreeTypeFont):
        return font.getmetrics()
    return text_size, 0


def _place(
    area: Area, tag_size: tuple[int, int], size: tuple[int, int], placed: Sequence[Area]
) -> Area:
    """Above the box, else inside its top, its bottom, else below; the first that is free."""
    (x1, y1, _, y2), (width, height) = area, tag_size
    left = max(0, min(x1, size[0] - width))
    tops = [top for top in (y1 - height, y1, y2 - height, y2) if 0 <= top <= size[1] - height]
    tags = [(left, top, left + width, top + height) for top in tops or [0]]
    free = [tag for tag in tags if not any(_overlap(tag, other) for other in placed)]
    return (free or tags)[0]


def _overlap(a: Area, b: Area) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text_color(background: str) -> str:
    red, green, blue = ImageColor.getrgb(background)[:3]
    # Perceived brightness (ITU-R BT.601).
    return "#111827" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"


PRESENT_COLOR, ABSENT_COLOR = "#22c55e", "#94a3b8"
_PANEL_COLOR, _TEXT_COLOR, _TRACK_COLOR = "#0f172a", "#f8fafc", "#1e293b"


def draw_scores(
    image: Image.Image,
    scores: Mapping[str, float],
    present: Sequence[str],
    *,
    count: int = 5,
    width: int = 480,
) -> Image.Image:
    """The image, `width` pixels wide, over a panel with its `count` best classes.

    Args:
        image: Any size and mode.
        scores: Class name -> score in [0, 1], the best first.
        present: The classes that count as present; all of them are shown, in green.
        count: Rows, unless more classes are present.
        width: Pixels.
    """
    picture = image.convert("RGB")
    # Tall images are cut down rather than let the panel go out of sight.
    height = min(max(1, round(picture.height * width / picture.width)), 2 * width)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    shown = list(scores)[: max(count, len(present))]
    font, row, pad = ImageFont.load_default(15), 24, 8
    canvas = Image.new("RGB", (width, height + row * len(shown) + 2 * pad), _PANEL_COLOR)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    left, right = width * 2 // 5, width - 60
    for i, name in enumerate(shown):
        top, score = height + pad + i * row, min(max(scores[name], 0.0), 1.0)
        middle = top + row // 2
        ink = PRESENT_COLOR if name in present else ABSENT_COLOR
        draw.text((pad, middle), _cut(draw, name, font, left - 2 * pad), _TEXT_COLOR, font, "lm")
        draw.rectangle((left, top + 6, right, top + row - 6), fill=_TRACK_COLOR)
        draw.rectangle((left, top + 6, left + (right - left) * score, top + row - 6), fill=ink)
        draw.text((right + pad, middle), f"{scores[name]:.2f}", _TEXT_COLOR, font, "lm")
    return canvas


def _cut(
    draw: ImageDraw.ImageDraw,
    text: str,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    width: int,
) -> str:
    """The text, shortened with an ellipsis to at most `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font=font) > width:
        text = text[:-1]
    return f"{text}…"


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
