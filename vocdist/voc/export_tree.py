"""What of an export goes into a VOC tree: an XML and a JPEG for each image."""

import io
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from vocdist.errors import UserError
from vocdist.voc.classes import normalise_name
from vocdist.voc.export_pairs import Entry
from vocdist.voc.pairing import JPEG_SUFFIXES

JPEG_QUALITY = 95
JPEG_START = b"\xff\xd8\xff"
# Endings under which the conversion takes a JPEG.
KEPT_NAMES = frozenset({".jpg", ".jpeg"})
# Formats of one picture that Pillow reads without another program.
FORMATS = ("PNG", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "GIF", "AVIF")
WHITE_16, WHITE_FLOAT = 65535, 1.0
# Below this, the images of an export use 12 bits of 16: scaled by the range they would be black.
DARKEST_WHITE_16 = 4096
ORIENTATION = 0x0112
NEW_SUBFILE_TYPE, REDUCED_PAGE = 254, 1  # of a TIFF page: a smaller version of another


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """A box in pixels counted from 0: x0, y0 the left upper corner, x1, y1 the half-open end."""

    name: str
    x0: float
    y0: float
    x1: float
    y1: float
    difficult: bool = False


@dataclass(slots=True)
class Translated:
    """What an export in another format holds.

    Attributes:
        entries: Its images, with the text of an XML each.
        names: Class name -> number of boxes.
        declared: The classes that the export has names for, with boxes or without.
        counts: What was changed or left out, in words -> how often.
        notes: Lines of report.
        format: As it is called: `COCO`, `YOLO`.
    """

    format: str
    entries: list[Entry] = field(default_factory=list)
    names: Counter[str] = field(default_factory=Counter)
    declared: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(
        self, entry: Entry, filename: str, size: tuple[int, int], boxes: Sequence[DrawnBox]
    ) -> None:
        """Add an image of `size` (width, height); boxes without area are left out, counted."""
        kept = [box for box in boxes if box.x1 > box.x0 and box.y1 > box.y0]
        self.counts["boxes without area: left out"] += len(boxes) - len(kept)
        self.counts["images without a box"] += not kept
        self.names.update(normalise_name(box.name) for box in kept)
        entry.text = annotation_xml(filename, size, kept)
        self.entries.append(entry)

    def report(self) -> list[str]:
        """The notes, and a line for each count that is not 0."""
        boxes = sum(self.names.values())
        read = f"read as {self.format}: {boxes:,} boxes, to whole pixels, counted from 1 as in VOC"
        empty = sorted(self.declared - self.names.keys())
        if empty:
            self.notes.append(f"{len(empty):,} classes have no box: {', '.join(empty[:10])}")
        return [read, *self.notes, *(f"{what}: {n:,}" for what, n in self.counts.items() if n)]


def annotation_xml(filename: str, size: tuple[int, int], boxes: Sequence[DrawnBox]) -> str:
    """The VOC XML of an image of `size` (width, height), pixels.

    VOC counts pixels from 1 and its maxima are inside the box, so that they equal the half-open
    ends; corners are rounded to whole pixels, of which a box keeps one at least in each direction.
    """
    root = Element("annotation")
    SubElement(root, "filename").text = filename
    sides = SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (*size, 3), strict=True):
        SubElement(sides, tag).text = str(value)
    for box in boxes:
        item = SubElement(root, "object")
        SubElement(item, "name").text = box.name
        SubElement(item, "difficult").text = str(int(box.difficult))
        (xmin, xmax), (ymin, ymax) = _whole(box.x0, box.x1), _whole(box.y0, box.y1)
        inside = SubElement(item, "bndbox")
        for tag, value in (("xmin", xmin), ("ymin", ymin), ("xmax", xmax), ("ymax", ymax)):
            SubElement(inside, tag).text = str(value)
    indent(root)
    return tostring(root, encoding="unicode")


def _whole(start: float, end: float) -> tuple[int, int]:
    """[start, end) counted from 0 -> (first, last) pixel counted from 1."""
    first = round(start) + 1
    return first, max(round(end), first)


class NotTaken(NamedTuple):
    """An image file that is not put into the tree."""

    path: Path
    why: str


@dataclass(slots=True)
class ImageStore:
    """Puts images into a folder, and counts what it did to them.

    Attributes:
        folder: Of the images, which must be there.
        reencoded: Images that were stored anew as JPEG.
        misnamed: Format -> number of files of it whose suffix names another.
        scaled: Mode -> number of images of more than 8 bits, made 8-bit by the mode's range.
        lightest: Mode -> largest value in all images of it, and the image that has it.
        deep_colors: Images of 16 bits a colour, of which the upper 8 were kept.
        transparent: Images whose transparency was dropped.
        unreadable: Files placed as they are, since they cannot be decoded.
        not_taken: Files of several frames.
    """

    folder: Path
    reencoded: int = 0
    misnamed: Counter[str] = field(default_factory=Counter)
    scaled: Counter[str] = field(default_factory=Counter)
    lightest: dict[str, tuple[float, Path]] = field(default_factory=dict)
    deep_colors: int = 0
    transparent: int = 0
    unreadable: list[Path] = field(default_factory=list)
    not_taken: list[NotTaken] = field(default_factory=list)

    def place(self, path: Path, stem: str) -> bool:
        """Store one image under a stem; False where it is not taken.

        Raises:
            UserError: Its pixels have no known white: floats outside 0 to 1, greys of 32 bits.
        """
        with path.open("rb") as file:
            is_jpeg = file.read(len(JPEG_START)) == JPEG_START
        if is_jpeg:
            suffix = path.suffix.lower()
            self.misnamed["JPEG"] += suffix not in JPEG_SUFFIXES
            kept = path.suffix if suffix in KEPT_NAMES else ".jpg"
            place_file(path, self.folder / f"{stem}{kept}")
            return True
        try:
            encoded = self._as_jpeg(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            # As it is, for the conversion to name.
            self.unreadable.append(path)
            place_file(path, self.folder / f"{stem}{path.suffix}")
            return True
        if encoded is None:
            return False
        # Written here, not by Pillow, whose errors do not say that the disk is full.
        (self.folder / f"{stem}.jpg").write_bytes(encoded)
        self.reencoded += 1
        return True

    def check_deep_images(self) -> None:
        """Refuse images of 16 bits of which none uses more than 12.

        Raises:
            UserError: Names the lightest of them.
        """
        for mode, (value, path) in self.lightest.items():
            if mode != "F" and value < DARKEST_WHITE_16:
                raise UserError(
                    f"{path}: the lightest of {self.scaled[mode]} images of mode {mode}, its "
                    f"largest value is {value:g} of {WHITE_16}: scaled by that range all would be "
                    f"black. {_eight_bits(path)}"
                )

    def _as_jpeg(self, path: Path) -> bytes | None:
        with Image.open(path, formats=FORMATS) as image:
            frames = _frames(image)
            if frames > 1:
                self.not_taken.append(NotTaken(path, f"{frames} frames"))
                return None
            name = image.format or ""
            # Pillow reads a colour of 16 bits by its upper half; only the raw mode says so.
            deep_colors = image.mode[0] != "I" and ";16" in str(image.tile[:1])
            image.load()
            turned = image.getexif().get(ORIENTATION, 1)
            # Its pixels as stored, as the boxes are; how it is to be turned goes with it.
            exif = Image.Exif()
            if turned != 1:
                exif[ORIENTATION] = turned
            colors = self._eight_bit(image, path)
            stream = io.BytesIO()
            colors.save(stream, "JPEG", quality=JPEG_QUALITY, exif=exif)
        self.deep_colors += deep_colors
        self.misnamed[name] += path.suffix.lower() in JPEG_SUFFIXES
        return stream.getvalue()

    def _eight_bit(self, image: Image.Image, path: Path) -> Image.Image:
        if image.mode != "F" and not image.mode.startswith("I"):
            self.transparent += _shows_through(image)
            return image.convert("RGB")
        # Pillow would cut such values off at 255, not scale them.
        grey: npt.NDArray[np.float64] = np.asarray(image, dtype=np.float64)
        mode, white = image.mode, WHITE_FLOAT if image.mode == "F" else float(WHITE_16)
        low, high = float(grey.min()), float(grey.max())
        if not (low >= 0 and high <= white):  # not a number, too
            raise UserError(
                f"{path}: mode {mode} with values from {low:g} to {high:g}, of which nobody says "
                f"what is white (0 to {white:g} is understood). {_eight_bits(path)}"
            )
        self.scaled[mode] += 1
        if high >= self.lightest.get(mode, (-1.0, path))[0]:
            self.lightest[mode] = (high, path)
        scaled = (grey * (255 / white)).round().astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")


def place_file(path: Path, target: Path) -> None:
    """Hard-link the file behind a path where the disk allows it, else copy it."""
    real = path.resolve()  # a relative link leads elsewhere from the new folder
    try:
        os.link(real, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(real, target)


def drawn_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in pixels of an image as it is shown: EXIF's turn applied; None: unreadable.

    That is the image which a labelling tool shows, and of whose sides YOLO's numbers are shares.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ORIENTATION, 1)
            # Pillow turns a TIFF's pixels when it loads them, and the size with them.
            quarter = turned in (5, 6, 7, 8) and image.format != "TIFF"
            return image.size[::-1] if quarter else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _frames(image: Image.Image) -> int:
    """Number of pictures in a file; smaller versions of the first in a TIFF do not count."""
    count: int = getattr(image, "n_frames", 1)
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or count == 1:
        return count
    pages = 1
    for number in range(1, count):
        image.seek(number)
        pages += not image.tag_v2.get(NEW_SUBFILE_TYPE, 0) & REDUCED_PAGE
    image.seek(0)
    return pages


def _shows_through(image: Image.Image) -> bool:
    if "A" in image.getbands():
        low, _ = image.getchannel("A").getextrema()
        return bool(low < 255)  # type: ignore[operator]
    return "transparency" in image.info


def _eight_bits(path: Path) -> str:
    """The remedy: a command of ImageMagick's that makes an 8-bit image of a deep one."""
    return (
        "Make 8-bit images of them first, as with ImageMagick, which stretches each from its "
        f"darkest value to its lightest: magick {path.name} -auto-level -depth 8 {path.stem}.png"
    )
