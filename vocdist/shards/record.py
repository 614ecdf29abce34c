"""What is stored of a sample besides its image: the JSON member, as arrays."""

import json
from dataclasses import dataclass

import numpy as np

from vocdist.voc.annotation import multi_hot


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Annotations:
    """The stored record of one sample, as arrays.

    Attributes:
        key: The sample's key in its shard.
        width: Of the stored image, pixels.
        height: Of the stored image, pixels.
        boxes: (N, 5) int32 rows `[class_id, x, y, w, h]` as in the XML (1-based minima).
        difficult: (N,) bool.
    """

    key: str
    width: int
    height: int
    boxes: np.ndarray
    difficult: np.ndarray

    def multi_hot(self, classes: int) -> np.ndarray:
        """(classes,) int8, 1 for each class that has a box."""
        return multi_hot(self.boxes, classes)


def parse_record(stored: bytes) -> Annotations:
    """Read a JSON member.

    Raises:
        ValueError: It is none, or not of our form; a KeyError or TypeError, likewise.
    """
    record = json.loads(stored)
    # Pictures are named by it.
    if not isinstance(record["key"], str) or "/" in record["key"]:
        raise ValueError(f"key {record['key']!r}")
    width, height = record["width"], record["height"]
    if not (isinstance(width, int) and isinstance(height, int)):
        raise ValueError(f"size {width!r} x {height!r}")
    boxes = np.asarray(record["boxes"], dtype=np.int32).reshape(-1, 5)
    difficult = np.asarray(record["difficult"], dtype=bool)
    if difficult.shape != (len(boxes),):
        raise ValueError(f"{len(boxes)} boxes and {difficult.shape} flags")
    return Annotations(record["key"], width, height, boxes, difficult)
