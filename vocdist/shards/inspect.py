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
from vocdist.shards.jpeg import BadImage, checked_size
from vocdist.shards.plan import PlannedSample, content_hash, record_bytes, sample_key
from vocdist.shards.rejections import Rejection, shown_name
from vocdist.shards.shrink import Shrink, shrink_rows, shrunk_size
from vocdist.voc.annotation import (
    Annotation,
    AnnotationError,
    VocObject,
    box_rows,
    unknown_names,
)
from vocdist.voc.pairing import FilePair, eligible_annotation


@dataclass(frozen=True, slots=True)
class Inspection:
    """Where the files are and what is wanted of them."""

    root: Path
    class_ids: Mapping[str, int]
    skip_difficult: bool
    shrink: Shrink | None = None
    decode: bool = True


@dataclass(frozen=True, slots=True)
class Inspected:
    """One pair of files: its sample, or None with a rejection that says why.

    `difficult` counts the boxes that `skip_difficult` left out, `unknown` those of other classes.
    """

    stem: str
    sample: PlannedSample | None
    rejections: tuple[Rejection, ...]
    unknown: Counter[str]
    difficult: int


def inspect_pairs(pairs: Sequence[FilePair], inspection: Inspection) -> list[Inspected]:
    """Inspect each pair; a unit of work for a worker process."""
    annotations, images = inspection.root / "Annotations", inspection.root / "JPEGImages"
    return [
        _inspect(pair, annotations / pair.annotation_name, images / pair.image_name, inspection)
        for pair in pairs
    ]


def _inspect(pair: FilePair, xml: Path, image: Path, inspection: Inspection) -> Inspected:
    xml_name = shown_name(f"Annotations/{pair.annotation_name}")
    try:
        annotation = eligible_annotation(xml)
        encoded = _read(image)
        size = checked_size(encoded, decode=inspection.decode)
        _check_size(annotation, size)
    except AnnotationError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise _vanished(xml) from None
        return _rejected(pair, Rejection(xml_name, "file", error.reason, error.detail))
    except BadImage as bad:
        name = shown_name(f"JPEGImages/{pair.image_name}")
        return _rejected(pair, Rejection(name, "file", bad.reason, bad.detail))
    known = [item for item in annotation.objects if item.name in inspection.class_ids]
    wanted = [item for item in known if not (inspection.skip_difficult and item.difficult)]
    objects, notes = usable_objects(wanted, size, xml_name)
    if wanted and not objects:
        # As an image of nothing it would teach that there is nothing.
        detail = f"no box is left: {notes[0].detail}"
        whole = Rejection(xml_name, "file", "no_usable_box", detail)
        return _rejected(pair, whole, *notes)
    return Inspected(
        stem=pair.stem,
        sample=_plan_sample(pair, encoded, size, objects, inspection),
        rejections=tuple(notes),
        unknown=unknown_names(annotation.objects, inspection.class_ids),
        difficult=len(known) - len(wanted),
    )


def usable_objects(
    objects: Sequence[VocObject], size: tuple[int, int], file: str
) -> tuple[list[VocObject], list[Rejection]]:
    """Leave out boxes that make no sense and clip those that reach out of the image.

    A box is inside when 0 <= xmin < xmax <= width, and likewise in y: minima are 1-based in VOC
    and 0-based in what many tools export, and both are left as they stand.

    Args:
        objects: In the order of the XML.
        size: (width, height) of the stored image.
        file: Named in the rejections.
    """
    usable, notes = [], []
    for item in objects:
        if item.xmin >= item.xmax or item.ymin >= item.ymax:
            box = _box_words(item)
            notes.append(Rejection(file, "box", "empty_box", f"{box} has no area"))
            continue
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


def _box_words(item: VocObject) -> str:
    return f"{item.name} ({item.xmin}, {item.ymin})-({item.xmax}, {item.ymax})"


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except FileNotFoundError:
        raise _vanished(image) from None
    except OSError as error:
        raise BadImage("unreadable_image", f"cannot be read: {error.strerror or error}") from None


def _vanished(path: Path) -> UserError:
    return UserError(
        f"{path}: vanished while the data set was read, or {socket.gethostname()} does not see it: "
        f"run again"
    )


def _check_size(annotation: Annotation, size: tuple[int, int]) -> None:
    """An XML that states another size was drawn on another version of the picture."""
    stated = (annotation.width, annotation.height)
    if 0 not in stated and stated != size:
        raise BadImage(
            "size_mismatch",
            f"{size[0]} x {size[1]} pixels are stored, but its XML is for {stated[0]} x "
            f"{stated[1]}: boxes would be misplaced",
        )


def _plan_sample(
    pair: FilePair,
    encoded: bytes,
    size: tuple[int, int],
    objects: Sequence[VocObject],
    inspection: Inspection,
) -> PlannedSample:
    rows: list[list[int]] = box_rows(objects, inspection.class_ids).tolist()
    if inspection.shrink:
        stored = shrunk_size(*size, inspection.shrink.max_side)
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
        image_hash=content_hash(encoded),
        record=record_bytes(record),
    )


def _rejected(pair: FilePair, *rejections: Rejection) -> Inspected:
    return Inspected(pair.stem, None, rejections, Counter(), 0)
