"""What an RPN's proposals look like: how many boxes they cover, which, and whether anchors fit.

M: boxes of the val split. B: boxes of the train split. A: anchors of a cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vocdist.metrics.proposals import COUNTS, IOU_THRESHOLDS, LARGE_AREA, SMALL_AREA
from vocdist.report.charts import Axis, Frame, Series, chart
from vocdist.report.training_view import Panel
from vocdist.runs.predictions import RpnPredictions

# Sides of boxes (square root of the area, stored pixels) between two bars.
SIDES = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384, np.inf)
# The IoU from which an anchor's shape is called fitting.
FITTING = 0.5


@dataclass(frozen=True)
class SizeRow:
    """Boxes of one size: their number, recall at IoU 0.5 and AR with 200 proposals."""

    name: str
    boxes: int
    recall: float
    ar: float


@dataclass(frozen=True)
class RpnView:
    """All of it; no `recall` without objects in val, no `fitting` without any in train.

    `fitting` is the share of train boxes that some anchor's shape fits.
    """

    recall: Sequence[Panel]
    sizes: Sequence[SizeRow]
    anchors: Panel
    fitting: float | None


def rpn_view(predictions: RpnPredictions, metrics: Mapping[str, float]) -> RpnView:
    """Work out the view; the baselines are the metrics' own."""
    best = shape_iou(predictions.train_sizes, predictions.anchors)
    objects = len(predictions.best)
    return RpnView(
        # Without objects there is nothing to find, and no recall.
        recall=[_by_count(predictions, metrics), _by_iou(predictions)] if objects else [],
        sizes=_size_rows(predictions),
        anchors=_anchor_panel(predictions, best),
        fitting=float((best >= FITTING).mean()) if len(best) else None,
    )


def shape_iou(sizes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of each (width, height) of (B, 2) with the anchor (A, 2) of the nearest shape -> (B,).

    Both are laid on the same centre: what an anchor could reach at best, wherever it lies.
    """
    shared = np.minimum(sizes[:, None], anchors[None]).prod(axis=2)
    union = sizes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - shared
    best: np.ndarray = (shared / np.maximum(union, 1e-9)).max(axis=1, initial=0.0)
    return best


def _recall_and_ar(best: np.ndarray) -> tuple[float, float]:
    hits = best[:, None] >= np.asarray(IOU_THRESHOLDS)
    return float(hits[:, 0].mean()), float(hits.mean())


def _by_count(predictions: RpnPredictions, metrics: Mapping[str, float]) -> Panel:
    counts = predictions.counts.tolist()
    table = np.array([_recall_and_ar(predictions.at(count)) for count in counts])
    series = [
        Series("recall at IoU 0.5", counts, table[:, 0], 0),
        Series("AR", counts, table[:, 1], 1),
    ]
    legend: list[tuple[int, str, float | None]] = [
        (0, "recall at IoU 0.5", float(table[-1, 0])),
        (1, "AR", float(table[-1, 1])),
    ]
    for color, (name, key) in enumerate(
        {"uniform grid": "grid", "random boxes": "random"}.items(), start=2
    ):
        values = [metrics.get(f"recall50@{count}/{key}") for count in COUNTS]
        if None not in values:
            known = [float(value) for value in values if value is not None]
            series.append(Series(f"recall, {name}", list(COUNTS), known, color, "dashed"))
            legend.append((color, f"recall, {name}", known[-1]))
    ticks = (1, 2, 5, 10, 20, 50, 100, 300)
    svg = chart(
        series,
        Axis(1, counts[-1], "proposals an image", log=True, ticks=ticks),
        Axis(0.0, 1.0, "recall"),
    )
    note = f"Figures: with {counts[-1]} proposals."
    return Panel("Recall by number of proposals", svg, legend, note)


def _by_iou(predictions: RpnPredictions) -> Panel:
    thresholds = np.linspace(0.3, 1.0, 36)
    series, legend = [], []
    for color, count in enumerate(COUNTS):
        best = predictions.at(count)
        recall = [(best >= t - 1e-9).mean() for t in thresholds]
        series.append(Series(f"{count} proposals", thresholds, recall, color))
        legend.append((color, f"{count} proposals", None))
    svg = chart(
        series,
        Axis(0.3, 1.0, "IoU that counts as found"),
        Axis(0.0, 1.0, "recall"),
        verticals=[0.5],
    )
    return Panel("Recall by IoU", svg, legend)


def _size_rows(predictions: RpnPredictions) -> list[SizeRow]:
    best, sides = predictions.at(200), np.sqrt(predictions.areas)
    groups = [
        (
            f"{low:.0f}–{high:.0f}" if np.isfinite(high) else f"over {low:.0f}",
            (sides >= low) & (sides < high),
        )
        for low, high in zip(SIDES, SIDES[1:], strict=False)
    ]
    areas = predictions.areas
    groups += [
        ("small", areas < SMALL_AREA),
        ("medium", (areas >= SMALL_AREA) & (areas < LARGE_AREA)),
        ("large", areas >= LARGE_AREA),
    ]
    return [
        SizeRow(name, int(members.sum()), *_recall_and_ar(best[members]))
        for name, members in groups
        if members.any()
    ]


def _anchor_panel(predictions: RpnPredictions, best: np.ndarray) -> Panel:
    sizes, anchors = predictions.train_sizes, predictions.anchors
    both = np.concatenate([sizes, anchors])
    low, high = float(max(1.0, both.min() * 0.9)), float(both.max() * 1.1)
    ticks = [float(2**power) for power in range(1, 13) if low <= 2**power <= high]
    fits = best >= FITTING
    svg = chart(
        [
            Series("boxes that an anchor fits", sizes[fits, 0], sizes[fits, 1], 0, "dots"),
            Series("boxes that none fits", sizes[~fits, 0], sizes[~fits, 1], 1, "dots"),
        ],
        Axis(low, high, "width, pixels of the input", log=True, ticks=ticks),
        Axis(low, high, "height", log=True, ticks=ticks),
        frame=Frame(width=480, height=420, left=40),
        marks=[(w, h, f"anchor {w:.0f} × {h:.0f}") for w, h in anchors.tolist()],
    )
    legend: list[tuple[int, str, float | None]] = [
        (0, "fitted by an anchor", float(fits.mean()) if len(fits) else None),
        (1, "by none", float(1 - fits.mean()) if len(fits) else None),
    ]
    return Panel("Anchors (rings) on the boxes of the train split (dots)", svg, legend)
