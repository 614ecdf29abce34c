"""Making images smaller at conversion, for those who want small shards that decode fast."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

Row = tuple[int, int, int, int, int]  # [class_id, x, y, w, h], x and y 1-based


@dataclass(frozen=True, slots=True)
class Shrink:
    """Images whose long side exceeds `max_side` pixels are scaled to it; JPEG `quality` 1-100."""

    max_side: int
    quality: int


def shrunk_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """(width, height) with the long side at most `max_side`, the aspect kept; never enlarged."""
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink_jpeg(encoded: bytes, size: tuple[int, int], quality: int) -> bytes:
    """Decode, scale to `size` (width, height) and encode again; grey stays grey, CMYK turns RGB.

    An image of that size already passes through untouched. Of others the metadata is dropped, an
    EXIF orientation too: what is stored is how boxes see it.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        if image.size == size:
            return encoded
        pixels = image if image.mode in ("L", "RGB") else image.convert("RGB")
        # Half as large again is enough to start from, and saves most of the decoding.
        scaled = pixels.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    stream = io.BytesIO()
    scaled.save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


def shrink_rows(
    rows: Sequence[Sequence[int]], old: tuple[int, int], new: tuple[int, int]
) -> list[list[int]]:
    """Scale box rows from an image of size `old` (width, height) to one of size `new`.

    Corners are scaled as the half-open pixel interval [x - 1, x + w) and rounded; a box keeps at
    least one pixel between its corners, and stays inside.
    """
    shrunk = []
    for class_id, x, y, w, h in rows:
        left, right = _shrink_side(x, w, old[0], new[0])
        top, bottom = _shrink_side(y, h, old[1], new[1])
        shrunk.append([class_id, left, top, right - left, bottom - top])
    return shrunk


def _shrink_side(start: int, length: int, old: int, new: int) -> tuple[int, int]:
    """(1-based minimum, inclusive maximum) in the new frame, at least 1 apart."""
    first = round((start - 1) * new / old) + 1
    last = min(new, max(first + 1, round((start + length) * new / old)))
    return min(first, last - 1), last
