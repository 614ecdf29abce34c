"""Boxes of other formats as VOC annotations: an XML for each image, and what was changed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from vocdist.voc.classes import normalise_name
from vocdist.voc.export_pairs import Entry


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
