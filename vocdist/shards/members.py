"""The content of one stored sample: does it decode, and does its record fit?"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from vocdist.shards.index import IndexEntry
from vocdist.shards.jpeg import BadImage, checked_size
from vocdist.voc.classes import normalise_name

PER_BOX = ("boxes", "names", "difficult", "truncated")


def member_problems(tar: BinaryIO, entry: IndexEntry, classes: Sequence[str]) -> Iterator[str]:
    """Lines `member: what is wrong` for the sample that an index entry points at."""
    try:
        size = checked_size(_read(tar, entry.jpg_offset, entry.jpg_size))
    except BadImage as bad:
        yield f"{entry.key}.jpg: {bad.detail}"
        size = None
    record = _record(tar, entry)
    if record is None:
        yield f"{entry.key}.json: not a record of vocdist"
        return
    if record["key"] != entry.key:
        yield f"{entry.key}.json: it is the record of {record['key']}"
    stated = (record["width"], record["height"])
    if size and stated != size:
        yield f"{entry.key}.json: states (width, height) {stated}, the image has {size}"
    for number, (row, name) in enumerate(zip(record["boxes"], record["names"], strict=True), 1):
        class_id, x, y, w, h = row
        if not 0 <= class_id < len(classes) or normalise_name(classes[class_id]) != name:
            yield f"{entry.key}.json: box {number} is of class {class_id}, '{name}'"
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > stated[0] or y + h > stated[1]:
            yield f"{entry.key}.json: box {number} {row} is not inside the image"


def class_counts(tar: BinaryIO, entry: IndexEntry, num_classes: int) -> np.ndarray:
    """(num_classes,) int64: boxes of each class; boxes of no class do not count."""
    record = _record(tar, entry)
    ids = [row[0] for row in record["boxes"]] if record else []
    known = [i for i in ids if 0 <= i < num_classes]
    return np.bincount(np.asarray(known, dtype=np.int64), minlength=num_classes)


def _record(tar: BinaryIO, entry: IndexEntry) -> dict[str, Any] | None:
    try:
        record = json.loads(_read(tar, entry.json_offset, entry.json_size))
        lengths = {len(record[name]) for name in PER_BOX}
        whole = len(lengths) == 1 and all(len(row) == 5 for row in record["boxes"])
        numbers = [record["width"], record["height"], *(v for r in record["boxes"] for v in r)]
        fits = whole and "key" in record and all(type(number) is int for number in numbers)
        return record if fits else None
    except (ValueError, KeyError, TypeError):
        return None


def _read(tar: BinaryIO, offset: int, size: int) -> bytes:
    tar.seek(offset)
    return tar.read(size)
