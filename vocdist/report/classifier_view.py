"""What a classifier's predictions look like: per class, at every threshold, and its confusions.

C: classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vocdist.metrics.classification import (
    PrecisionRecall,
    f1_over,
    false_positives_beside,
    precision_recall,
)
from vocdist.metrics.tables import measured_classes
from vocdist.report.charts import SMALL, Axis, Series, chart
from vocdist.report.training_view import Panel
from vocdist.runs.predictions import ClassifierPredictions

# The metrics' own threshold.
THRESHOLD = 0.5
_GRID = np.linspace(0.0, 1.0, 51)
_SHARES = Axis(0.0, 1.0, ticks=(0.0, 0.5, 1.0))


@dataclass(frozen=True)
class ClassRow:
    """One class, None where a figure is not defined.

    `images` show it; `precision`, `recall` and `f1` are at `THRESHOLD`, `best_f1` is the highest,
    at `best_threshold`; `own_f1` is at `own_threshold`, which the run chose on its train split.
    """

    name: str
    images: int
    ap: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    best_threshold: float | None
    best_f1: float | None
    own_threshold: float | None
    own_f1: float | None


@dataclass(frozen=True)
class Confusions:
    """`counts[row][column]`: images where `row` was wrongly predicted and `column` is present.

    `totals[row]`: all images where it was wrongly predicted. `strength` is each count's share of
    the largest one.
    """

    names: Sequence[str]
    counts: Sequence[Sequence[int]]
    strength: Sequence[Sequence[float]]
    totals: Sequence[int]

    def most(self, number: int) -> list[tuple[str, str, int, int]]:
        """The most frequent: (predicted, present, images, all false ones of the predicted)."""
        pairs = [
            (self.names[row], self.names[column], count, self.totals[row])
            for row, counts in enumerate(self.counts)
            for column, count in enumerate(counts)
            if count
        ]
        return sorted(pairs, key=lambda pair: -pair[2])[:number]


@dataclass(frozen=True)
class ClassifierView:
    """All of it, classes by AP, best first; `mean_f1` and the like are over the classes.

    `own_mean_f1` is None where the run has no thresholds, as before its end; `measured` says how
    many classes have an image, if not all.
    """

    classes: Sequence[ClassRow]
    curves: Sequence[Panel]
    thresholds: Sequence[Panel]
    overview: Panel
    confusions: Confusions
    mean_f1: float
    best_mean_f1: float
    own_mean_f1: float | None
    best_common: tuple[float, float]
    measured: str


def classifier_view(
    predictions: ClassifierPredictions, metrics: Mapping[str, float]
) -> ClassifierView:
    """Work out the view; AP and F1 are the metrics' own where they are given."""
    scores, labels = predictions.scores, predictions.labels
    curves = [precision_recall(scores[:, i], labels[:, i]) for i in range(len(predictions.classes))]
    rows = [
        _class_row(name, scores[:, i], labels[:, i], curves[i], metrics)
        for i, name in enumerate(predictions.classes)
    ]
    order = sorted(range(len(rows)), key=lambda i: (-(rows[i].ap or -1.0), rows[i].name))
    f1 = f1_over(scores, labels, _GRID)
    # As in the metrics: of a class without an image there is no F1.
    shown = f1[labels.any(axis=0)] if labels.any() else f1
    mean = shown.mean(axis=0)
    common = int(mean.argmax())
    return ClassifierView(
        classes=[rows[i] for i in order],
        curves=[_curve_panel(rows[i], curves[i]) for i in order if rows[i].images],
        thresholds=[_threshold_panel(rows[i], f1[i]) for i in order if rows[i].images],
        overview=_overview(shown),
        confusions=_confusions(predictions),
        mean_f1=float(np.mean([row.f1 for row in rows if row.f1 is not None] or [0.0])),
        best_mean_f1=float(
            np.mean([row.best_f1 for row in rows if row.best_f1 is not None] or [0.0])
        ),
        own_mean_f1=metrics.get("macro_f1_tuned"),
        best_common=(float(_GRID[common]), float(mean[common])),
        measured=measured_classes("macro_f1", metrics),
    )


def _class_row(
    name: str,
    scores: np.ndarray,
    labels: np.ndarray,
    curve: PrecisionRecall,
    metrics: Mapping[str, float],
) -> ClassRow:
    images, predicted = int(labels.sum()), scores >= THRESHOLD
    hits = int((predicted & labels.astype(bool)).sum())
    best = int(curve.f1.argmax())
    f1 = 2 * hits / max(1, images + int(predicted.sum()))
    return ClassRow(
        name=name,
        images=images,
        ap=metrics.get(f"ap/{name}"),
        precision=hits / int(predicted.sum()) if predicted.any() else None,
        recall=hits / images if images else None,
        f1=metrics.get(f"f1/{name}", f1) if images else None,
        best_threshold=float(curve.thresholds[best]) if images else None,
        best_f1=float(curve.f1[best]) if images else None,
        own_threshold=metrics.get(f"threshold/{name}"),
        own_f1=metrics.get(f"f1_tuned/{name}") if images else None,
    )


def _curve_panel(row: ClassRow, curve: PrecisionRecall) -> Panel:
    # From the left edge, as the area does.
    recall = np.concatenate([[0.0], curve.recall])
    precision = np.concatenate([[curve.precision[0]], curve.precision])
    marks = []
    if row.precision is not None and row.recall is not None:
        words = f"at {THRESHOLD}: precision {row.precision:.2f}, recall {row.recall:.2f}"
        marks = [(row.recall, row.precision, words)]
    svg = chart(
        [Series(row.name, *_few(recall, precision))], _SHARES, _SHARES, frame=SMALL, marks=marks
    )
    return Panel(row.name, svg, [(0, "AP", row.ap)])


def _threshold_panel(row: ClassRow, f1: np.ndarray) -> Panel:
    marks = []
    if row.best_threshold is not None and row.best_f1 is not None:
        words = f"F1 {row.best_f1:.3f} at threshold {row.best_threshold:.3f}"
        marks = [(row.best_threshold, row.best_f1, words)]
    svg = chart(
        [Series(row.name, _GRID, f1)],
        _SHARES,
        _SHARES,
        frame=SMALL,
        marks=marks,
        verticals=[THRESHOLD],
    )
    return Panel(row.name, svg, [(0, "at", row.best_threshold)])


def _overview(f1: np.ndarray) -> Panel:
    series = [Series("", _GRID, one, 6, "faint") for one in f1]
    mean = f1.mean(axis=0)
    best = int(mean.argmax())
    svg = chart(
        [*series, Series("mean over the classes", _GRID, mean, 0)],
        Axis(0.0, 1.0, "threshold, the same for all classes"),
        Axis(0.0, 1.0, "F1"),
        marks=[(_GRID[best], mean[best], f"macro-F1 {mean[best]:.3f} at {_GRID[best]:.2f}")],
        verticals=[THRESHOLD],
    )
    legend = [(0, "macro-F1, best", float(mean[best])), (6, "single classes", None)]
    return Panel("F1 over one threshold", svg, legend)


def _confusions(predictions: ClassifierPredictions) -> Confusions:
    beside = false_positives_beside(predictions.scores, predictions.labels, THRESHOLD)
    false = (predictions.scores >= THRESHOLD) & ~predictions.labels.astype(bool)
    return Confusions(
        names=predictions.classes,
        counts=beside.tolist(),
        strength=(beside / max(1, int(beside.max()))).tolist(),
        totals=false.sum(axis=0).tolist(),
    )


def _few(x: np.ndarray, y: np.ndarray, most: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a curve's vertical runs, at most `most` points: more weigh than they show."""
    ends = np.ones(len(x), dtype=bool)
    ends[1:-1] = (x[1:-1] != x[:-2]) | (x[1:-1] != x[2:])
    x, y = x[ends], y[ends]
    if len(x) <= most:
        return x, y
    kept = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return x[kept], y[kept]
