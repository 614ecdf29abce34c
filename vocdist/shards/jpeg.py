"""Is this file a JPEG that the loader will be able to decode?"""

import io

import simplejpeg
from PIL import Image, UnidentifiedImageError

# Pillow's own guard against decompression bombs; a JPEG may claim 65,535 x 65,535 pixels.
MAX_PIXELS = 89_478_485


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
        if "precision" in str(error):
            raise BadImage("deep_image", f"{error}: store it with 8 bits a channel") from None
        raise BadImage("broken_image", f"does not decode: {error}") from None
    return width, height


def _kind(encoded: bytes) -> str:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return f"the content is {image.format}"
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return "the content is no image"
