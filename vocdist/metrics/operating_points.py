"""What a classifier does at every threshold: precision, recall and F1 of each class.

N: images. C: classes. A class counts as predicted where its score is at least the threshold.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class PrecisionRecall(NamedTuple):
    """One class's (T,) precision and recall at its distinct scores, highest threshold first."""

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 at each threshold, (T,)."""
        total = self.precision + self.recall
        f1: NDArray[np.float64] = 2 * self.precision * self.recall / np.where(total > 0, total, 1.0)
        return f1


def precision_recall(scores: ArrayLike, truth: ArrayLike) -> PrecisionRecall:
    """Precision and recall of scores (N,) against truth (N,) at every distinct score.

    The area under the steps is scikit-learn's average precision. Recall is 0 where the class has
    no positive.
    """
    values = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(truth).astype(bool)
    order = np.argsort(-values, kind="stable")
    values, positive = values[order], positive[order]
    hits = np.cumsum(positive)
    # Of equal scores the last: a threshold takes all of them or none.
    last = np.flatnonzero(np.diff(values, append=np.inf))
    hits, predicted = hits[last], np.arange(1, len(values) + 1)[last]
    return PrecisionRecall(
        thresholds=values[last],
        precision=hits / predicted,
        recall=hits / max(1, int(positive.sum())),
    )


def f1_over(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """F1 of every class at every threshold (T,) -> (C, T); scores and labels are (N, C)."""
    values, truth = np.asarray(scores), np.asarray(labels).astype(bool)
    columns = []
    for threshold in np.asarray(thresholds):
        predicted = values >= threshold
        total = truth.sum(axis=0) + predicted.sum(axis=0)
        columns.append(2 * (predicted & truth).sum(axis=0) / np.maximum(total, 1))
    f1: NDArray[np.float64] = np.stack(columns, axis=1)
    return f1


def false_positives_beside(
    scores: ArrayLike, labels: ArrayLike, threshold: float | ArrayLike
) -> NDArray[np.int64]:
    """(C, C): images where class `row` is predicted and absent while class `column` is present.

    The diagonal is 0 by its meaning. `threshold` is one number, or one for each class (C,).
    """
    truth = np.asarray(labels).astype(bool)
    false = (np.asarray(scores) >= np.asarray(threshold)) & ~truth
    beside: NDArray[np.int64] = false.T.astype(np.int64) @ truth.astype(np.int64)
    return beside
