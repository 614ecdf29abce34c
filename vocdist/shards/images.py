"""The JPEGs of a conversion: checked by their bytes, turned upright, made smaller."""

import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from vocdist.voc.annotation import VocObject

# Pillow's own guard against decompression bombs; a JPEG may claim 65,535 x 65,535 pixels.
MAX_PIXELS = 89_478_485
# What a decoder of 8 bits a channel does not read: X-ray stations and some cameras write 12.
DEEP = "a JPEG of {} bits a channel: store it with 8"
# Markers that begin a frame and state its bits a channel: SOF0 to SOF15, without the three codes
# among them that are something else.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
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


class BadImage(Exception):  # noqa: N818 - a finding about the data, reported as a rejection
    """The image cannot be used: `reason` is a slug to count by, `detail` says it in words."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep both parts."""
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def checked_size(encoded: bytes, *, decode: bool = True) -> tuple[int, int]:
    """Decode a JPEG to its end and give its (width, height) in stored pixels.

    All the coded data is read, but only an eighth of the resolution is computed, which takes two
    thirds of the time. Damage from which a decoder could recover is damage. Without `decode` only
    the header is read, and damage in between goes unseen where the end is a JPEG's; a file with
    another end is decoded, as it may be cut, or have a telephone's film behind its picture.

    Raises:
        BadImage: It is empty, no JPEG, broken, cut, or too large to be meant.
    """
    if not encoded:
        raise BadImage("empty_image", "the file is empty")
    try:
        if encoded[:2] != b"\xff\xd8":
            raise BadImage("not_jpeg_inside", f"named as a JPEG, but {_kind(encoded)}")
        if (bits := bits_a_channel(encoded)) > 8:
            raise BadImage("deep_image", DEEP.format(bits))
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        if width * height > MAX_PIXELS:
            raise BadImage("image_too_large", f"{width} x {height} pixels")
        if not decode and encoded.rstrip(b"\0").endswith(b"\xff\xd9"):
            pass
        elif colorspace in ("RGB", "YCbCr", "Gray"):
            simplejpeg.decode_jpeg(
                encoded, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8
            )
        else:  # CMYK and YCCK, from printers: the loader gives these to Pillow
            with Image.open(io.BytesIO(encoded)) as image:
                image.load()
    # SyntaxError: Pillow's word for broken headers.
    except (ValueError, OSError, SyntaxError) as error:
        raise BadImage("broken_image", f"does not decode: {error}") from None
    return width, height


def bits_a_channel(encoded: bytes) -> int:
    """What a JPEG's frame states, mostly 8; 8 too where no frame is found."""
    position = 2
    while encoded[position : position + 1] == b"\xff" and position + 4 < len(encoded):
        marker = encoded[position + 1]
        if marker in _FRAMES:
            return encoded[position + 4]
        if marker == START_OF_SCAN[0]:
            break
        # A byte that fills up has no length after it.
        length = int.from_bytes(encoded[position + 2 : position + 4], "big")
        position += 1 if marker == 0xFF else 2 + length
    return 8


def _kind(encoded: bytes) -> str:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return f"the content is {image.format}"
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return "the content is no image"


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


def as_drawn_on(encoded: bytes, stated: tuple[int, int]) -> tuple[Image.Image, str]:
    """A JPEG's picture in the frame of its boxes, and a line where that is not certain.

    `stated` is the XML's (width, height), 0 where it states none. Where the sizes do not tell, it
    is the upright picture, which most tools show.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        orientation = orientation_of(encoded)
        frame = frame_of_boxes(stated, image.size, orientation, "auto")
        if frame == "stored":
            return image.convert("RGB"), ""
        turned = ImageOps.exif_transpose(image).convert("RGB")
    if frame == "upright":
        return turned, ""
    return turned, (
        f"EXIF has it {WORDS[orientation]}, and its XML's size does not tell which picture the "
        f"boxes were drawn on: shown upright. If they do not fit, convert with exif_boxes=stored"
    )


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


@dataclass(frozen=True, slots=True)
class Shrink:
    """Images whose long side exceeds `max_side` pixels are scaled to it; JPEG `quality` 1-100."""

    max_side: int
    quality: int


def fit_long_side(width: int, height: int, max_side: int) -> tuple[int, int]:
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
