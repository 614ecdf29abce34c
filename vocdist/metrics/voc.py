"""Average precision of classification as Pascal VOC's own devkit computes it (2010 and later)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def voc_average_precision(
    scores: ArrayLike, present: ArrayLike, ignored: ArrayLike
) -> float | None:
    """AP of one class over N images; None when no image counts as positive.

    The area under the precision-recall curve, each precision raised to the best at the same or a
    higher recall (`VOCap.m`); scikit-learn's AP has the precisions as they are, and is lower.

    Args:
        scores: (N,), higher for more probably present.
        present: (N,) whether the class is in the image.
        ignored: (N,) images that count as neither: the class is there in difficult objects only.
    """
    counted = ~np.asarray(ignored).astype(bool)
    confidence, positive = np.asarray(scores)[counted], np.asarray(present)[counted].astype(bool)
    if not positive.any():
        return None
    ranked = positive[np.argsort(-confidence, kind="stable")]
    hits = np.cumsum(ranked)
    precision = hits / np.arange(1, len(ranked) + 1)
    best_from_here: NDArray[np.float64] = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by the same amount at every positive.
    return float(best_from_here[ranked].mean())


def voc_metrics(
    scores: ArrayLike, labels: ArrayLike, ignored: ArrayLike, class_names: tuple[str, ...]
) -> dict[str, float]:
    """`mAP_voc`, the mean of `ap_voc/<class>` over classes with a positive; (N, C) each."""
    scores, labels, ignored = np.asarray(scores), np.asarray(labels), np.asarray(ignored)
    found = {
        name: voc_average_precision(scores[:, column], labels[:, column], ignored[:, column])
        for column, name in enumerate(class_names)
    }
    known = {name: value for name, value in found.items() if value is not None}
    return {
        "mAP_voc": float(np.mean(list(known.values()))) if known else 0.0,
        **{f"ap_voc/{name}": value for name, value in known.items()},
    }
