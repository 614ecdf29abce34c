"""EXIF orientation: the way a photograph is to be turned, and boxes between both frames.

Shards hold a photograph's bytes as they are, and inference takes stored pixels: boxes that were
drawn on the upright picture are turned into the stored one.
"""

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from PIL import Image

from vocdist.voc.annotation import VocObject

BoxFrame = Literal["auto", "upright", "stored"]
ORIENTATION_TAG = 0x0112
EXIF_MARK = b"Exif\0\0"
START_OF_SCAN = b"\xda"
# Markers without a length after them: TEM, restarts, begin and end of an image; and a filling byte.
STANDALONE = frozenset(bytes([code]) for code in (0x01, *range(0xD0, 0xDA), 0xFF))
UPRIGHT = 1
# What a viewer does with the stored picture, by EXIF's number, where it is not upright.
WORDS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "turned by a quarter and mirrored",
    6: "turned by a quarter to the right",
    7: "turned by a quarter and mirrored",
    8: "turned by a quarter to the left",
}
# Orientations whose upright picture has the stored one's sides exchanged.
QUARTER_TURNS = frozenset({5, 6, 7, 8})


def orientation_of(encoded: bytes) -> int:
    """A JPEG's EXIF orientation, 1 to 8; 1, upright as it is stored, where it states none."""
    if encoded.find(EXIF_MARK, 0, _header_end(encoded)) < 0:
        return UPRIGHT
    try:
        with warnings.catch_warnings():
            # Pillow warns of tags that are cut, on opening too.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                value = image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    # What Pillow raises at broken tags; the image itself was checked before.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return UPRIGHT
    return value if isinstance(value, int) and value in WORDS else UPRIGHT


def _header_end(encoded: bytes) -> int:
    """Where a JPEG's coded picture begins, or a megabyte where its segments do not lead there.

    To search a whole photograph for the mark of EXIF takes longer than all else of its header.
    """
    position = 2
    while encoded[position : position + 1] == b"\xff":
        marker = encoded[position + 1 : position + 2]
        if marker == START_OF_SCAN:
            return position
        if marker in STANDALONE:
            break
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    return 1 << 20


def upright_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of the upright picture, from those of the stored one."""
    return stored[::-1] if orientation in QUARTER_TURNS else stored


def frame_of_boxes(
    stated: tuple[int, int], stored: tuple[int, int], orientation: int, chosen: BoxFrame
) -> BoxFrame:
    """Whose pixels an XML's boxes are in: `upright`, `stored`, or `auto` where nothing says so.

    Args:
        stated: (width, height) in the XML, 0 where it states none.
        stored: Of the stored picture.
        orientation: EXIF's.
        chosen: What is taken where the sizes do not tell.
    """
    if orientation == UPRIGHT:
        return "stored"
    upright = upright_size(stored, orientation)
    if 0 not in stated and upright != stored:
        return "upright" if stated == upright else "stored"
    return chosen


def to_stored(
    objects: Sequence[VocObject], stored: tuple[int, int], orientation: int
) -> list[VocObject]:
    """Turn boxes of the upright picture into the stored one's frame.

    Args:
        objects: Boxes inside the upright picture, `0 <= xmin < xmax <= width`; as everywhere their
            pixels are the half-open [xmin - 1, xmax).
        stored: (width, height) of the stored picture.
        orientation: EXIF's.
    """
    return [_turned(item, stored, orientation) for item in objects]


def _turned(item: VocObject, stored: tuple[int, int], orientation: int) -> VocObject:
    across, down = (item.xmin, item.xmax), (item.ymin, item.ymax)
    if orientation in QUARTER_TURNS:
        across, down = down, across
    # The stored picture's columns run against the upright one's columns or rows, and so its rows.
    xmin, xmax = _reversed(across, stored[0]) if orientation in (2, 3, 7, 8) else across
    ymin, ymax = _reversed(down, stored[1]) if orientation in (3, 4, 6, 7) else down
    return replace(item, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def _reversed(side: tuple[int, int], length: int) -> tuple[int, int]:
    """(minimum, maximum) counted from the other end; a box that began at 0 begins at 1."""
    last = min(length, length - side[0] + 1)
    return min(length - side[1] + 1, last - 1), last
