"""Metrics of multi-label classification: AP, F1, precision and recall by threshold."""

from collections.abc import Sequence
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
    # Imported here, as below: it takes a second and more, which no start of a training waits for.
    from sklearn.metrics import precision_recall_curve

    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(truth).astype(bool)
    if not positive.any():
        # scikit-learn warns, and sets recall to 1.
        nothing = np.zeros_like(thresholds := np.unique(values)[::-1])
        return PrecisionRecall(thresholds, precision=nothing, recall=nothing)
    precision, recall, thresholds = precision_recall_curve(positive, values)
    # Its last point, recall 0, belongs to no threshold.
    return PrecisionRecall(thresholds[::-1], precision[-2::-1], recall[-2::-1])


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


def multilabel_metrics(
    scores: ArrayLike, labels: ArrayLike, class_names: Sequence[str], threshold: float = 0.5
) -> dict[str, float]:
    """Metrics of scores (N, C) in [0, 1] against labels (N, C) in {0, 1}, as flat keys.

    `mAP` is the mean of `ap/<class>` (area under the precision-recall steps, scikit-learn's) over
    the classes that have a positive; for the others AP is undefined: they have no `ap/` key and are
    counted in `classes_without_positives`. `macro_f1` is the mean of `f1/<class>` over the classes
    that have a positive and `sample_f1` the mean F1 of an image's label set, both at `threshold`, 0
    where nothing is there and nothing is predicted. Where no class has a positive, the three means
    are left out. `samples` is N.
    """
    from sklearn.metrics import average_precision_score

    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.shape != labels.shape or labels.shape != (len(labels), len(class_names)):
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape} do not fit {len(class_names)} "
            "class names: pass both as (samples, classes)"
        )
    if len(labels) == 0:
        raise ValueError("no samples to measure: pass at least one row of scores and labels")
    truth = labels.astype(bool)
    predicted = scores >= threshold
    class_f1 = _f1(truth, predicted, axis=0)
    precisions = {
        name: float(average_precision_score(truth[:, column], scores[:, column]))
        for column, name in enumerate(class_names)
        if truth[:, column].any()
    }
    means = (
        {
            "mAP": float(np.mean(list(precisions.values()))),
            "macro_f1": float(class_f1[truth.any(axis=0)].mean()),
            "sample_f1": float(_f1(truth, predicted, axis=1).mean()),
        }
        if precisions
        else {}
    )
    return {
        **means,
        "samples": float(len(labels)),
        "classes_without_positives": float(len(class_names) - len(precisions)),
        **{f"ap/{name}": value for name, value in precisions.items()},
        **{f"f1/{name}": float(f1) for name, f1 in zip(class_names, class_f1, strict=True)},
    }


def prior_map(labels: ArrayLike) -> float:
    """The mAP of a constant score: the mean share of positives, over classes that have one."""
    share = np.asarray(labels).astype(bool).mean(axis=0)
    return float(share[share > 0].mean()) if share.any() else 0.0


def _f1(truth: NDArray[np.bool_], predicted: NDArray[np.bool_], axis: int) -> NDArray[np.float64]:
    hits = (truth & predicted).sum(axis=axis)
    total = truth.sum(axis=axis) + predicted.sum(axis=axis)
    f1: NDArray[np.float64] = 2 * hits / np.maximum(total, 1)
    return f1


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
    """`mAP_voc`, the mean of `ap_voc/<class>` over classes with a positive, if any; (N, C) each."""
    scores, labels, ignored = np.asarray(scores), np.asarray(labels), np.asarray(ignored)
    found = {
        name: voc_average_precision(scores[:, column], labels[:, column], ignored[:, column])
        for column, name in enumerate(class_names)
    }
    known = {name: value for name, value in found.items() if value is not None}
    return {
        **({"mAP_voc": float(np.mean(list(known.values())))} if known else {}),
        **{f"ap_voc/{name}": value for name, value in known.items()},
    }


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
    """`f1_tuned/` and `threshold/` of each class, `macro_f1_tuned` and `sample_f1_tuned`.

    The means are over the same as in `multilabel_metrics`.
    """
    thresholds = np.asarray(thresholds)
    truth, predicted = np.asarray(labels).astype(bool), np.asarray(scores) >= thresholds
    class_f1 = _f1(truth, predicted, axis=0)
    means = (
        {
            "macro_f1_tuned": float(class_f1[truth.any(axis=0)].mean()),
            "sample_f1_tuned": float(_f1(truth, predicted, axis=1).mean()),
        }
        if truth.any()
        else {}
    )
    return {
        **means,
        **{f"f1_tuned/{name}": float(f1) for name, f1 in zip(class_names, class_f1, strict=True)},
        **{f"threshold/{name}": float(t) for name, t in zip(class_names, thresholds, strict=True)},
    }


def _best_threshold(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> float:
    if not present.any():
        return DEFAULT_THRESHOLD
    curve = precision_recall(scores, present)
    # Of equally good ones the lowest.
    best = curve.thresholds[::-1][int(np.argmax(curve.f1[::-1]))]
    below = scores[scores < best]
    return float((best + (below.max() if len(below) else best)) / 2)
