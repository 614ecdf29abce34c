"""Box rows as shards store them -> boxes as models use them; without torch, which takes seconds."""

import numpy as np


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
