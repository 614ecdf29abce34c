"""Multi-label classification metrics, as the notebook defines them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score


def multilabel_metrics(
    scores: ArrayLike, labels: ArrayLike, class_names: Sequence[str], threshold: float = 0.5
) -> dict[str, float]:
    """Metrics of scores (N, C) in [0, 1] against labels (N, C) in {0, 1}, as flat keys.

    `mAP` is the mean of `ap/<class>` (area under the precision-recall steps, scikit-learn's) over
    the classes that have a positive; for the others AP is undefined: they have no `ap/` key and are
    counted in `classes_without_positives`. `macro_f1` is the mean of `f1/<class>` over all classes
    and `sample_f1` the mean F1 of an image's label set, both at `threshold`, 0 where nothing is
    there and nothing is predicted. `samples` is N.
    """
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
    return {
        "mAP": float(np.mean(list(precisions.values()))) if precisions else 0.0,
        "macro_f1": float(class_f1.mean()),
        "sample_f1": float(_f1(truth, predicted, axis=1).mean()),
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
