"""VOC annotation XML -> typed objects -> box rows and label vectors.

Boxes here are in VOC's own frame: pixels as the XML has them, minima 1-based in the original data
sets; whether of the stored picture or of the upright one is for `vocdist.shards.images` to say.
N: objects of one image. C: classes.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import numpy as np
import numpy.typing as npt
from defusedxml.common import DefusedXmlException

from vocdist.errors import UserError
from vocdist.files.atomic import read_content
from vocdist.voc.classes import normalise_name
from vocdist.voc.text import parse_xml, wrong_bytes

# Far above any JPEG side (65,535), and the difference of two such values still fits an int32.
MAX_COORDINATE = 2**30 - 1
TRUE_FLAGS = frozenset({"1", "true", "yes"})
# Shares of an image's sides end at 1, but for what a converter's rounding adds.
SHARE_SLACK = 0.1


class AnnotationError(UserError):
    """One annotation that cannot become a sample.

    Attributes:
        path: The file at fault.
        reason: A slug to count by: `unreadable`, `malformed_xml`, `forbidden_xml`,
            `not_voc_xml`, `missing_name`, `missing_box`, `bad_box`; `vocdist.voc.pairing` adds
            its own.
        detail: What is wrong, in words, without the path.
    """

    def __init__(self, path: Path, reason: str, detail: str) -> None:
        """Keep the three parts as `args`, so that the error survives pickling by a worker."""
        super().__init__(path, reason, detail)
        self.path = path
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        """Name the file, what is wrong with it, and the remedy."""
        return f"{self.path}: {self.detail} ({self.reason}): mend the file or take it out"


@dataclass(frozen=True, slots=True)
class VocObject:
    """One `<object>`: its class name (stripped, lowercase) and its box in VOC's frame."""

    name: str
    xmin: int
    ymin: int
    xmax: int
    ymax: int
    difficult: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class BadObject:
    """One `<object>` that cannot be used: its class name, where it has one, and why.

    `reason` is `missing_name`, `missing_box`, `bad_box` or `box_in_shares`.
    """

    name: str
    difficult: bool
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Annotation:
    """One XML file. `width` and `height` are what it claims, in pixels, 0 where it does not.

    `objects` are those with a name and a box, `bad_objects` the others, each in the file's order.
    """

    filename: str
    width: int
    height: int
    objects: tuple[VocObject, ...]
    bad_objects: tuple[BadObject, ...] = ()


def parse_annotation(path: Path) -> Annotation:
    """Read one VOC XML file.

    Only `<object>` directly under the root counts: the `<part>` boxes (head, hand, foot) of
    the person-layout task are not objects. Inverted or empty boxes are kept as they stand.

    Raises:
        AnnotationError: The file is unreadable, is no XML, declares entities, or is an XML of
            another kind.
    """
    try:
        content = read_content(path)
    except OSError as error:
        detail = f"cannot be read: {error.strerror or error}"
        raise AnnotationError(path, "unreadable", detail) from error
    try:
        root = parse_xml(content)
    except DefusedXmlException as error:
        # The usual vehicle of decompression bombs and file disclosure; VOC never needs it.
        detail = "declares entities or external references, which are not read"
        raise AnnotationError(path, "forbidden_xml", detail) from error
    except (ParseError, ValueError, LookupError) as error:
        # ValueError and LookupError: encodings that expat or Python does not know.
        detail = f"is not valid XML: {wrong_bytes(content) or error}"
        raise AnnotationError(path, "malformed_xml", detail) from error
    for element in root.iter():
        # Some converters declare a namespace; VOC has none, and one meaning for each name.
        if "}" in element.tag:
            element.tag = element.tag.rpartition("}")[2]
    if root.tag != "annotation" and root.find("object") is None:
        detail = f"is no VOC annotation: its root is <{root.tag}>, not <annotation>"
        raise AnnotationError(path, "not_voc_xml", detail)
    size = root.find("size")
    found = [
        _parse_object(element, f"object {number}")
        for number, element in enumerate(root.findall("object"), start=1)
    ]
    return Annotation(
        filename=(root.findtext("filename") or "").strip(),
        width=_pixels(size, "width"),
        height=_pixels(size, "height"),
        objects=tuple(item for item in found if isinstance(item, VocObject)),
        bad_objects=tuple(item for item in found if isinstance(item, BadObject)),
    )


def without_difficult(objects: Iterable[VocObject]) -> tuple[VocObject, ...]:
    """Leave out the objects flagged difficult, as VOC's own evaluation does."""
    return tuple(item for item in objects if not item.difficult)


def unknown_names(objects: Iterable[VocObject], class_ids: Mapping[str, int]) -> Counter[str]:
    """Count, by name, the objects that `box_rows` leaves out because no class has their name."""
    return Counter(item.name for item in objects if item.name not in class_ids)


def box_rows(objects: Sequence[VocObject], class_ids: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """Rows `[class_id, x, y, w, h]`, pixels, for the objects of known classes.

    Args:
        objects: In the order of the XML, which the rows keep.
        class_ids: Normalised name -> id (see `vocdist.voc.classes.class_ids`).

    Returns:
        (N, 5) int32. `x, y` are xmin, ymin as in the XML; `w = max(0, xmax - xmin)`, and `h`
        likewise. N is 0 when no object is of a known class.
    """
    return np.array(plain_rows(objects, class_ids), dtype=np.int32).reshape(-1, 5)


def plain_rows(objects: Iterable[VocObject], class_ids: Mapping[str, int]) -> list[list[int]]:
    """What `box_rows` gives, as lists, which JSON takes: the way through an array is slow."""
    return [
        [
            class_ids[item.name],
            item.xmin,
            item.ymin,
            max(0, item.xmax - item.xmin),
            max(0, item.ymax - item.ymin),
        ]
        for item in objects
        if item.name in class_ids
    ]


def multi_hot(boxes: npt.NDArray[np.int32], num_classes: int) -> npt.NDArray[np.int8]:
    """(N, 5) box rows -> (C,) int8, 1 for each class with at least one box.

    Raises:
        ValueError: A class id lies outside `range(num_classes)`.
    """
    ids = boxes[:, 0]
    # Checked by hand: a negative id would quietly set a class from the end.
    if ids.size and not (ids.min() >= 0 and ids.max() < num_classes):
        raise ValueError(
            f"class ids {ids.min()}..{ids.max()} do not fit {num_classes} classes: "
            "make the boxes and the labels from the same class list"
        )
    labels = np.zeros(num_classes, dtype=np.int8)
    labels[ids] = 1
    return labels


def _parse_object(element: Element, label: str) -> VocObject | BadObject:
    name = normalise_name(element.findtext("name") or "")
    difficult = _flag(element, "difficult")
    box = element.find("bndbox")
    if not name:
        return BadObject(name, difficult, "missing_name", f"{label} has no <name>")
    label = f"{label} ({name})"
    if box is None:
        return BadObject(name, difficult, "missing_box", f"{label} has no <bndbox>")
    corners = []
    for tag in ("xmin", "ymin", "xmax", "ymax"):
        text = (box.findtext(tag) or "").strip()
        if not text:
            return BadObject(name, difficult, "missing_box", f"{label} has no <{tag}>")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        # NaN compares false.
        if not abs(value) < MAX_COORDINATE + 1:
            return BadObject(name, difficult, "bad_box", f"{label} has {tag}={text[:40]!r}")
        corners.append(value)
    if _are_shares(corners):
        x1, y1, x2, y2 = (f"{corner:.4g}" for corner in corners)
        detail = (
            f"{name} ({x1}, {y1})-({x2}, {y2}): are these shares (0 to 1) of the width and "
            "height? VOC's boxes are in pixels"
        )
        return BadObject(name, difficult, "box_in_shares", detail)
    # Some VOC2007 and VOC2012 files hold floats; the fraction is cut off, not rounded.
    xmin, ymin, xmax, ymax = (int(corner) for corner in corners)
    truncated = _flag(element, "truncated")
    return VocObject(name, xmin, ymin, xmax, ymax, difficult, truncated)


def _are_shares(corners: Sequence[float]) -> bool:
    """Whether corners (xmin, ymin, xmax, ymax) are from 0 to 1, and more than a point in pixels."""
    xmin, ymin, xmax, ymax = corners
    if xmin % 1 or ymin % 1 or xmax % 1 or ymax % 1:
        return min(corners) >= -SHARE_SLACK and max(corners) <= 1 + SHARE_SLACK
    return xmax <= 1 and set(corners) == {0, 1} and xmin != xmax and ymin != ymax


def _flag(element: Element, tag: str) -> bool:
    return (element.findtext(tag) or "").strip().lower() in TRUE_FLAGS


def _pixels(size: Element | None, tag: str) -> int:
    """Read a claimed side, 0 when absent or nonsense: the image's own header is the truth."""
    text = "" if size is None else size.findtext(tag) or ""
    try:
        return max(0, int(float(text)))
    except (ValueError, OverflowError):
        return 0


def rows_to_xyxy(
    rows: np.ndarray, width: int, height: int, *, one_based: bool = True
) -> np.ndarray:
    """(N, 5) rows `[class_id, x, y, w, h]` -> (N, 4) float32 xyxy, half-open, in stored pixels.

    VOC's corners are 1-based and inclusive: pixel columns xmin to xmax are the half-open interval
    [xmin - 1, xmax). With `one_based` false they are taken as they are, [xmin, xmax). Boxes are
    clipped to the image, for the few annotations that leave it.
    """
    x, y, w, h = rows[:, 1:].astype(np.float32).T
    first = 1 if one_based else 0
    corners = np.stack([x - first, y - first, x + w, y + h], axis=1)
    clipped: np.ndarray = np.clip(corners, 0, np.array([width, height] * 2, dtype=np.float32))
    return clipped
