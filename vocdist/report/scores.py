"""A classifier's scores as bars below the image they are of."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

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
