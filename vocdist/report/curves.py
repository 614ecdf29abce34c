"""A run's losses and metrics as one picture, drawn from its `metrics.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vocdist.atomic import replaced_when_done
from vocdist.errors import UserError
from vocdist.report.run_data import points
from vocdist.report.svg import running_mean

# Pixels of the picture: sharp at twice the width of a README's column.
PICTURE_SIZE = (1600, 480)
_DPI = 160

_LOSSES = {
    "train/loss": "train",
    "val/loss": "val",
    "train/objectness": "train, objectness",
    "train/box": "train, box",
}
_METRICS = {
    "val/mAP": "mAP",
    "val/macro_f1": "macro F1",
    "val/sample_f1": "sample F1",
    "val/recall50@200": "recall@0.5",
    "val/AR@200": "AR",
}
_LEARNING_RATE = "Learning rate"
_PANELS = {
    "Loss": _LOSSES,
    "Validation": _METRICS,
    _LEARNING_RATE: {"train/lr": "learning rate"},
}
# One color per name, so that a loss looks the same in every run's picture.
_COLORS = {
    "train": "#2563eb",
    "val": "#ea580c",
    "train, objectness": "#0d9488",
    "train, box": "#9333ea",
    "mAP": "#2563eb",
    "macro F1": "#ea580c",
    "sample F1": "#0d9488",
    "recall@0.5": "#2563eb",
    "AR": "#ea580c",
    "learning rate": "#475569",
}
Values = npt.NDArray[np.float64]

_INK, _GRID = "#1f2937", "#e5e7eb"
# A curve of more points than this is drawn faint, with its running mean on top.
_SMOOTH_ABOVE = 40


class Curve(NamedTuple):
    """One key's values over the epochs: x (N,) in epochs (2.5 is halfway in the third), y (N,)."""

    name: str
    x: Values
    y: Values


def plot_curves(metrics_jsonl: Path, output: Path) -> None:
    """Draw losses, validation metrics and the learning rate over the epochs into a PNG.

    Panels without any value are left out. The picture has `PICTURE_SIZE` pixels.

    Raises:
        UserError: The file holds no loss and no metric that this picture knows.
    """
    rows = read_rows(metrics_jsonl)
    panels = [
        (title, curves) for title, names in _PANELS.items() if (curves := _curves(rows, names))
    ]
    if not panels:
        raise UserError(f"{metrics_jsonl}: nothing to plot yet: train for at least one logged step")
    figure = Figure(
        figsize=(PICTURE_SIZE[0] / _DPI, PICTURE_SIZE[1] / _DPI), dpi=_DPI, layout="constrained"
    )
    # The widths say what matters: the learning rate is a footnote.
    widths = [0.65 if title == _LEARNING_RATE else 1.0 for title, _ in panels]
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    last_epoch = max(curve.x.max() for _, curves in panels for curve in curves)
    for axis, (title, curves) in zip(axes, panels, strict=True):
        _draw_panel(axis, title, curves, last_epoch)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_done(output) as temporary:
        figure.savefig(temporary, format="png")


def read_rows(metrics_jsonl: Path) -> list[dict[str, Any]]:
    """Read one JSON object a line; a last line that a crash cut short is left out."""
    lines = metrics_jsonl.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{metrics_jsonl}:{number}: not a JSON object") from None
    return rows


def _curves(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Curve]:
    found = ((name, points(rows, key)) for key, name in names.items())
    return [Curve(name, *points) for name, points in found if len(points[0])]


def _draw_panel(axis: Axes, title: str, curves: Sequence[Curve], last_epoch: float) -> None:
    for curve in curves:
        _draw_curve(axis, curve)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axis.set_xlabel("epoch", fontsize=8, color=_INK)
    axis.set_xlim(0, last_epoch * 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.tick_params(labelsize=8, length=0, colors=_INK)
    axis.grid(color=_GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#9ca3af")
    highest = max(curve.y.max() for curve in curves) or 1.0
    legend_lines = 0 if len(curves) == 1 else -(-len(curves) // 2)
    # Room above the curves, so that the legend never lies on them.
    axis.set_ylim(0, highest * (1.06 + 0.11 * legend_lines))
    if legend_lines:
        axis.legend(
            loc="upper left",
            ncols=2,
            fontsize=8,
            facecolor="white",
            edgecolor="none",
            labelcolor=_INK,
            handlelength=1.4,
            columnspacing=1.2,
            borderaxespad=0.1,
        )


def _draw_curve(axis: Axes, curve: Curve) -> None:
    color = _COLORS[curve.name]
    # A learning rate has no noise to smooth.
    many = len(curve.x) > _SMOOTH_ABOVE and curve.name != "learning rate"
    smooth = running_mean(curve.y, len(curve.y) // 20) if many else curve.y
    label = f"{curve.name}  {smooth[-1]:.3f}"
    if many:
        axis.plot(curve.x, curve.y, color=color, linewidth=0.6, alpha=0.3)
    marker = "o" if len(curve.x) <= _SMOOTH_ABOVE // 2 else None
    axis.plot(
        curve.x, smooth, color=color, linewidth=1.8, marker=marker, markersize=3.5, label=label
    )
