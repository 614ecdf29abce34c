"""A threshold for each class, in place of 0.5 for all: chosen on one split, used on another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import f1_score, precision_recall_curve

# Of a class that was never seen: as if nothing had been chosen.
DEFAULT_THRESHOLD = 0.5


def best_thresholds(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """(C,) the thresholds in (0, 1] with the best F1 of each class; scores and labels (N, C).

    Between the chosen score and the next lower one lie other thresholds with the same decisions on
    these images; their middle is taken.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    columns = zip(scores.T, labels.T, strict=True)
    return np.array([_best_threshold(score, present) for score, present in columns])


def tuned_metrics(
    scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike, class_names: Sequence[str]
) -> dict[str, float]:
    """`macro_f1_tuned` and `sample_f1_tuned`, and `f1_tuned/` and `threshold/` of each class."""
    thresholds = np.asarray(thresholds)
    truth, predicted = (
        np.asarray(labels).astype(int),
        (np.asarray(scores) >= thresholds).astype(int),
    )
    by_class = [
        float(f1_score(truth[:, i], predicted[:, i], zero_division=0))
        for i in range(len(class_names))
    ]
    return {
        "macro_f1_tuned": float(np.mean(by_class)),
        "sample_f1_tuned": float(f1_score(truth, predicted, average="samples", zero_division=0)),
        **{f"f1_tuned/{name}": f1 for name, f1 in zip(class_names, by_class, strict=True)},
        **{f"threshold/{name}": float(t) for name, t in zip(class_names, thresholds, strict=True)},
    }


def _best_threshold(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    if not present.any():
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(present, scores)
    # The last point belongs to no threshold.
    total = np.maximum(precision + recall, 1e-12)[:-1]
    best = int(np.argmax(2 * (precision * recall)[:-1] / total))
    below = scores[scores < thresholds[best]]
    lower = below.max() if len(below) else thresholds[best]
    return float((thresholds[best] + lower) / 2)
