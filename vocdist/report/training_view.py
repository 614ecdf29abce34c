"""How a training went: losses, metrics, learning rate, speed; of one run or of several."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from vocdist.metrics.tables import measured_classes
from vocdist.report.charts import (
    Axis,
    Series,
    chart,
    nice_ticks,
    running_mean,
    thinned,
    upper_bound,
)
from vocdist.report.run_data import Row, RunData, last_metrics, points
from vocdist.tasks.task import task_class

# A curve of more points is drawn faint, with its running mean on top.
SMOOTH_ABOVE = 40
# The page's colors.
COLORS = 8

# Panel -> key -> name in the legend.
LOSSES = {"train/loss": "train", "val/loss": "val"}
LOSS_PARTS = {"val/objectness": "objectness, val", "val/box": "box, val"}
RATE = {"train/lr": "learning rate"}
NORM = {"train/grad_norm": "gradient norm"}
SPEED = {"perf/images_per_s": "images/s"}
WAIT = {"perf/data_wait": "share of the time"}
MEMORY = {"perf/gpu_memory_gib": "GiB"}
SECONDS = {"perf/epoch_s": "epoch", "perf/train_s": "of it training"}


@dataclass(frozen=True)
class Panel:
    """A chart with its title, legend and the words below it."""

    title: str
    svg: Markup
    legend: Sequence[tuple[int, str, float | None]] = ()
    note: str = ""


class Curve(NamedTuple):
    """One key's values: x (N,) in epochs (2.5 is halfway in the third), y (N,)."""

    color: int
    name: str
    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What one chart shows, at least one curve.

    Attributes:
        title: Of the chart.
        curves: Each of at least one point.
        note: Words below it.
        highest: Where the y axis ends at the latest; None: where the values say.
        smooth: Whether to lay a running mean over many points.
    """

    title: str
    curves: Sequence[Curve]
    note: str = ""
    highest: float | None = None
    smooth: bool = True


def learning_curves(rows: Sequence[Row], task: str) -> list[Curves]:
    """How well a run of a task learned; charts without a value are left out."""
    kind, metrics = task_class(task), last_metrics(rows)
    measured = {key: _with_classes(name, key, metrics) for key, name in kind.curves.items()}
    return _present(
        _curves(rows, "Loss", LOSSES),
        _curves(rows, "Parts of the loss", LOSS_PARTS),
        _curves(rows, kind.curves_title, measured, highest=1.0),
        _curves(rows, "Learning rate", RATE, smooth=False),
        _curves(rows, "Gradient norm", NORM, note="Before clipping, where it is clipped."),
    )


def curve_panels(run: RunData) -> list[Panel]:
    """How well it learned; panels without a value are left out."""
    return [_drawn(one) for one in learning_curves(run.rows, run.task)]


def speed_panels(run: RunData) -> list[Panel]:
    """How fast it went."""
    found = _present(
        _curves(run.rows, "Throughput", SPEED, note="Images of a step, over all processes."),
        _curves(
            run.rows, "Waiting for data", WAIT, note="Share of the time between steps.", highest=1.0
        ),
        _curves(run.rows, "Seconds an epoch", SECONDS),
        _curves(run.rows, "GPU memory", MEMORY, note="Peak so far, on the main process."),
    )
    return [_drawn(one) for one in found]


def compared_panels(runs: Sequence[RunData]) -> list[Panel]:
    """The same of several runs, each in its color."""
    task_metrics = {
        key: name
        for run in runs
        for key, name in task_class(run.task).curves.items()
        if key != "val/loss"
    }
    keys = {
        "train/loss": "Loss, train",
        "val/loss": "Loss, val",
        **{key: f"{name}, val" for key, name in task_metrics.items()},
        "train/lr": "Learning rate",
        "perf/images_per_s": "Images/s",
        "perf/data_wait": "Waiting for data, share",
    }
    panels = []
    for key, title in keys.items():
        found = [(number, run, *points(run.rows, key)) for number, run in enumerate(runs)]
        curves = [
            Curve(number % COLORS, _with_classes(run.name, key, run.metrics), x, y)
            for number, run, x, y in found
            if len(x)
        ]
        if curves:
            panels.append(_drawn(Curves(title, curves, smooth=key != "train/lr")))
    return panels


def _with_classes(name: str, key: str, metrics: Mapping[str, float]) -> str:
    """The name of a curve, with the number of classes that its mean is over, if not over all."""
    classes = measured_classes(key.removeprefix("val/"), metrics)
    return f"{name} ({classes})" if classes else name


def _present(*found: Curves | None) -> list[Curves]:
    return [one for one in found if one is not None]


def _curves(
    rows: Sequence[Row],
    title: str,
    names: Mapping[str, str],
    *,
    note: str = "",
    highest: float | None = None,
    smooth: bool = True,
) -> Curves | None:
    found = [
        Curve(color, name, *points(rows, key)) for color, (key, name) in enumerate(names.items())
    ]
    curves = [curve for curve in found if len(curve.x)]
    return Curves(title, curves, note, highest, smooth) if curves else None


def smoothed(curve: Curve) -> npt.NDArray[np.float64]:
    """The running mean of a curve of many points; of few, its own values."""
    many = len(curve.y) > SMOOTH_ABOVE
    return running_mean(curve.y, len(curve.y) // 20) if many else curve.y


def _drawn(shown: Curves) -> Panel:
    series: list[Series] = []
    legend: list[tuple[int, str, float | None]] = []
    tops = []
    for curve in shown.curves:
        color, name, x, y = curve
        mean = smoothed(curve) if shown.smooth else y
        if mean is not y:
            series.append(Series("", *thinned(x, y), color, "faint"))
        series.append(Series(name, *thinned(x, mean), color))
        legend.append((color, name, float(y[-1])))
        # A first step of a hundred times the rest would flatten all that matters.
        tops.append(float(np.quantile(y, 0.98)) if len(y) > SMOOTH_ABOVE else float(y.max()))
    # A whole number, so that the last tick is there and the panels of a run line up.
    last = math.ceil(max(float(curve.x.max()) for curve in shown.curves))
    top = upper_bound(tops)
    y_axis = Axis(0.0, min(top, shown.highest) if shown.highest else top)
    whole = [tick for tick in nice_ticks(0.0, last, 6) if tick == int(tick)]
    series = [replace(one, y=np.minimum(one.y, y_axis.high)) for one in series]
    svg = chart(series, Axis(0.0, last, "epoch", ticks=whole), y_axis)
    return Panel(shown.title, svg, legend, shown.note)
