"""Class names on filled tags beside their boxes, placed so that they stay readable."""

from collections.abc import Sequence

import numpy as np
from PIL import ImageColor, ImageDraw, ImageFont

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
