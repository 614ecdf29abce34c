"""Looking at an image and its annotation: a planned sample, or the reasons why there is none.

Done in parallel before anything is planned, so that the plan stays a pure function of what is
usable.
"""

import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vocdist.errors import UserError
from vocdist.files.atomic import read_content
from vocdist.shards.images import (
    UPRIGHT,
    WORDS,
    BadImage,
    BoxFrame,
    Shrink,
    checked_size,
    fit_long_side,
    frame_of_boxes,
    orientation_of,
    shrink_rows,
    to_stored,
    upright_size,
)
from vocdist.shards.plan import PlannedSample, content_hash, record_bytes, sample_key
from vocdist.shards.rejections import Rejection, shown_name
from vocdist.voc.annotation import (
    Annotation,
    AnnotationError,
    BadObject,
    VocObject,
    parse_annotation,
    plain_rows,
)
from vocdist.voc.pairing import KEEP_NEGATIVES, FilePair


@dataclass(frozen=True, slots=True)
class Inspection:
    """Where the files are and what is wanted of them."""

    root: Path
    class_ids: Mapping[str, int]
    skip_difficult: bool
    shrink: Shrink | None = None
    decode: bool = True
    negatives: bool = False
    exif_boxes: BoxFrame = "auto"


@dataclass(frozen=True, slots=True)
class Inspected:
    """One pair of files: its sample, or None with a rejection that says why.

    `difficult` counts the boxes that `skip_difficult` left out, `unknown` those of other classes.
    `negative`: it is of nothing, by an XML without objects or by none. `filename` is what the XML
    calls its image.
    """

    stem: str
    sample: PlannedSample | None
    rejections: tuple[Rejection, ...]
    unknown: Counter[str]
    difficult: int
    negative: bool = False
    filename: str = ""


# Of an image without an XML: it holds nothing.
NOTHING = Annotation(filename="", width=0, height=0, objects=())


@dataclass(frozen=True, slots=True)
class _Image:
    """An image file that decodes: (width, height) as stored, EXIF's orientation, content's hash."""

    size: tuple[int, int]
    orientation: int
    content: bytes


def inspect_pairs(pairs: Sequence[FilePair], inspection: Inspection) -> list[Inspected]:
    """Inspect each pair; a unit of work for a worker process.

    Kind by kind: the interpreter takes twice as long where each image that is decoded has just
    emptied the processor's caches.
    """
    annotations = [_annotation(pair, inspection) for pair in pairs]
    images = [
        found if isinstance(found, Rejection) else _image(pair, inspection)
        for pair, found in zip(pairs, annotations, strict=True)
    ]
    return [
        _inspected(pair, annotation, image, inspection)
        for pair, annotation, image in zip(pairs, annotations, images, strict=True)
    ]


def _annotation(pair: FilePair, inspection: Inspection) -> Annotation | Rejection:
    """The XML of a pair; refused where it holds no object and negatives are not asked for."""
    if pair.annotation_name is None:
        return NOTHING
    xml = inspection.root.joinpath("Annotations", pair.annotation_name)
    try:
        annotation = parse_annotation(xml)
    except AnnotationError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _vanished(error.path) from None
        return Rejection(_xml_name(pair), "file", error.reason, error.detail)
    if not (annotation.objects or annotation.bad_objects or inspection.negatives):
        detail = f"holds no <object>: {KEEP_NEGATIVES}"
        return Rejection(_xml_name(pair), "file", "no_objects", detail)
    return annotation


def _image(pair: FilePair, inspection: Inspection) -> _Image | Rejection:
    try:
        encoded = _read(f"{inspection.root}/JPEGImages/{pair.image_name}")
        size = checked_size(encoded, decode=inspection.decode)
    except BadImage as bad:
        return Rejection(_image_name(pair), "file", bad.reason, bad.detail)
    return _Image(size, orientation_of(encoded), content_hash(encoded))


def _inspected(
    pair: FilePair,
    annotation: Annotation | Rejection,
    image: _Image | Rejection,
    inspection: Inspection,
) -> Inspected:
    if isinstance(annotation, Rejection):
        return _rejected(pair, annotation)
    if isinstance(image, Rejection):
        return _rejected(pair, image)
    stored, orientation = image.size, image.orientation
    try:
        _check_size(annotation, stored, orientation)
        objects, left = _objects_of(annotation, inspection)
        frame = _frame(annotation, stored, orientation, inspection) if objects else "stored"
    except BadImage as bad:
        return _rejected(pair, Rejection(_image_name(pair), "file", bad.reason, bad.detail))
    size = upright_size(stored, orientation) if frame == "upright" else stored
    xml_name = _xml_name(pair)
    usable, notes = usable_objects(objects, size, xml_name)
    notes = [Rejection(xml_name, "box", b.reason, b.detail) for b in left.bad] + notes
    if notes and not usable:
        # As an image of nothing it would teach that there is nothing.
        gone = next(note for note in notes if note.what == "box")
        whole = Rejection(xml_name, "file", "no_usable_box", f"no box is left: {gone.detail}")
        return _rejected(pair, whole, *notes)
    if left.difficult and not usable:
        detail = "all its objects of the classes are difficult, and skip_difficult=true"
        whole = Rejection(xml_name, "file", "only_difficult", detail)
        return replace(_rejected(pair, whole), difficult=left.difficult)
    if frame == "upright" and orientation != UPRIGHT and usable:
        usable = to_stored(usable, stored, orientation)
        detail = f"EXIF has it {WORDS[orientation]}: its boxes are turned to lie on stored pixels"
        notes.append(Rejection(_image_name(pair), "changed_file", "exif_turned", detail))
    return Inspected(
        stem=pair.stem,
        sample=_plan_sample(pair, image, usable, inspection),
        rejections=tuple(notes),
        unknown=left.unknown,
        difficult=left.difficult,
        negative=not annotation.objects,
        filename=annotation.filename,
    )


def _xml_name(pair: FilePair) -> str:
    return shown_name(f"Annotations/{pair.annotation_name}")


def _image_name(pair: FilePair) -> str:
    return shown_name(f"JPEGImages/{pair.image_name}")


@dataclass(frozen=True, slots=True)
class _Left:
    """Objects that are not looked at further: faulty ones of the classes, others, difficult."""

    bad: tuple[BadObject, ...]
    unknown: Counter[str]
    difficult: int


def _objects_of(annotation: Annotation, inspection: Inspection) -> tuple[list[VocObject], _Left]:
    """The objects that are wanted, and what was left of the others."""
    ids = inspection.class_ids
    every: list[VocObject | BadObject] = [*annotation.objects, *annotation.bad_objects]
    # An object without a name may be of any class.
    known = [item for item in every if item.name in ids or not item.name]
    wanted = [item for item in known if not (inspection.skip_difficult and item.difficult)]
    left = _Left(
        bad=tuple(item for item in wanted if isinstance(item, BadObject)),
        unknown=Counter([item.name for item in every if item.name and item.name not in ids]),
        difficult=len(known) - len(wanted),
    )
    return [item for item in wanted if isinstance(item, VocObject)], left


def _frame(
    annotation: Annotation, stored: tuple[int, int], orientation: int, inspection: Inspection
) -> BoxFrame:
    stated = (annotation.width, annotation.height)
    frame = frame_of_boxes(stated, stored, orientation, inspection.exif_boxes)
    if frame == "auto":
        raise BadImage(
            "exif_rotated",
            f"EXIF orientation {orientation}: it is shown {WORDS[orientation]}, and its XML's size "
            "does not tell which picture the boxes were drawn on: exif_boxes=upright (as it is "
            "shown) or exif_boxes=stored decides",
        )
    return frame


def usable_objects(
    objects: Sequence[VocObject], size: tuple[int, int], file: str
) -> tuple[list[VocObject], list[Rejection]]:
    """Leave out boxes without area, order swapped corners, clip what reaches out of the image.

    A box is inside when 0 <= xmin < xmax <= width, and likewise in y: minima are 1-based in VOC
    and 0-based in what many tools export, and both are left as they stand.

    Args:
        objects: In the order of the XML.
        size: (width, height) of the picture that the boxes were drawn on.
        file: Named in the rejections.
    """
    usable, notes = [], []
    for item in objects:
        if item.xmin == item.xmax or item.ymin == item.ymax:
            box = _box_words(item)
            notes.append(Rejection(file, "box", "empty_box", f"{box} has no area"))
            continue
        if item.xmin > item.xmax or item.ymin > item.ymax:
            # A box that was dragged from another corner: which one was meant is certain.
            ordered = _in_order(item)
            x1, y1, x2, y2 = ordered.xmin, ordered.ymin, ordered.xmax, ordered.ymax
            detail = f"{_box_words(item)}: corners swapped, taken as ({x1}, {y1})-({x2}, {y2})"
            notes.append(Rejection(file, "changed_box", "corners_swapped", detail))
            item = ordered
        if min(item.xmin, item.ymin) >= 0 and item.xmax <= size[0] and item.ymax <= size[1]:
            usable.append(item)
            continue
        clipped = replace(
            item,
            xmin=max(item.xmin, 0),
            ymin=max(item.ymin, 0),
            xmax=min(item.xmax, size[0]),
            ymax=min(item.ymax, size[1]),
        )
        box, of_image = _box_words(item), f"the image of {size[0]} x {size[1]} pixels"
        if clipped.xmin >= clipped.xmax or clipped.ymin >= clipped.ymax:
            notes.append(Rejection(file, "box", "box_outside_image", f"{box} is not in {of_image}"))
            continue
        detail = f"{box} reaches out of {of_image}"
        notes.append(Rejection(file, "clipped_box", "box_beyond_edge", detail))
        usable.append(clipped)
    return usable, notes


def _in_order(item: VocObject) -> VocObject:
    xmin, xmax = sorted((item.xmin, item.xmax))
    ymin, ymax = sorted((item.ymin, item.ymax))
    return replace(item, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def _box_words(item: VocObject) -> str:
    return f"{item.name} ({item.xmin}, {item.ymin})-({item.xmax}, {item.ymax})"


def _read(image: str) -> bytes:
    try:
        return read_content(image)
    except FileNotFoundError:
        raise _vanished(image) from None
    except OSError as error:
        raise BadImage("unreadable_image", f"cannot be read: {error.strerror or error}") from None


def _vanished(path: Path | str) -> UserError:
    return UserError(
        f"{path}: vanished while the data set was read, or {socket.gethostname()} does not see it: "
        f"run again"
    )


def _check_size(annotation: Annotation, stored: tuple[int, int], orientation: int) -> None:
    """An XML that states another size was drawn on another version of the picture."""
    stated = (annotation.width, annotation.height)
    if 0 in stated or stated in (stored, upright_size(stored, orientation)):
        return
    exif = f" (EXIF: {WORDS[orientation]})" if orientation != UPRIGHT else ""
    raise BadImage(
        "size_mismatch",
        f"{stored[0]} x {stored[1]} pixels are stored{exif}, but its XML is for {stated[0]} x "
        f"{stated[1]}: boxes would be misplaced",
    )


def _plan_sample(
    pair: FilePair, image: _Image, objects: Sequence[VocObject], inspection: Inspection
) -> PlannedSample:
    size = image.size
    rows = plain_rows(objects, inspection.class_ids)
    if inspection.shrink:
        stored = fit_long_side(*size, inspection.shrink.max_side)
        rows, size = shrink_rows(rows, size, stored), stored
    key = sample_key(pair.stem)
    record = {
        "key": key,
        "filename": shown_name(pair.image_name),
        "width": size[0],
        "height": size[1],
        "boxes": rows,
        "names": [item.name for item in objects],
        "difficult": [int(item.difficult) for item in objects],
        "truncated": [int(item.truncated) for item in objects],
    }
    return PlannedSample(
        key=key,
        image_name=pair.image_name,
        image_hash=image.content,
        record=record_bytes(record),
        class_ids=tuple(row[0] for row in rows),
    )


def _rejected(pair: FilePair, *rejections: Rejection) -> Inspected:
    return Inspected(pair.stem, None, rejections, Counter(), 0)
