"""The picture of a run's curves, `curves.png`: what the page's charts show, for a README or slides.

Drawn by matplotlib, which takes 33 ms for a small chart where `charts.py` takes 2: a page has fifty
of them and is made anew after every epoch, this picture once.
"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.report.run_data import read_rows
from vocdist.report.training_view import (
    NORM,
    SMOOTH_ABOVE,
    Curve,
    Curves,
    learning_curves,
    smoothed,
)

# Pixels of the picture: sharp at twice the width of a README's column.
PICTURE_SIZE = (1600, 480)
_DPI = 160
# The page's colors on white.
COLORS = ("#2563eb", "#e05d0b", "#0b8b80", "#9333ea")
_INK, _GRID = "#1f2937", "#e5e7eb"


def plot_curves(metrics_jsonl: Path, task: str, output: Path) -> None:
    """Draw the losses, the task's metrics and the learning rate over the epochs into a PNG.

    Panels without any value are left out. The picture has `PICTURE_SIZE` pixels.

    Args:
        metrics_jsonl: The run's rows.
        task: As its config names it.
        output: The picture; its folder is made.

    Raises:
        UserError: The file holds no value that this picture would show.
    """
    found = learning_curves(read_rows(metrics_jsonl), task)
    panels = [panel for panel in found if panel.curves[0].name not in NORM.values()]
    if not panels:
        raise UserError(f"{metrics_jsonl}: nothing to plot yet: train for at least one logged step")
    figure = Figure(
        figsize=(PICTURE_SIZE[0] / _DPI, PICTURE_SIZE[1] / _DPI), dpi=_DPI, layout="constrained"
    )
    # The widths say what matters: the learning rate is a footnote.
    widths = [1.0 if panel.smooth else 0.65 for panel in panels]
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    last_epoch = max(curve.x.max() for panel in panels for curve in panel.curves)
    for axis, panel in zip(axes, panels, strict=True):
        # A legend of two columns is wider than a fourth of the picture.
        columns = 2 if len(panels) < 4 and len(panel.curves) > 1 else 1
        _draw_panel(axis, panel, last_epoch, legend_columns=columns)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_done(output) as temporary:
        figure.savefig(temporary, format="png")


def _draw_panel(axis: Axes, panel: Curves, last_epoch: float, *, legend_columns: int) -> None:
    for curve in panel.curves:
        _draw_curve(axis, curve, smooth=panel.smooth)
    axis.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=_INK)
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
    highest = max(curve.y.max() for curve in panel.curves) or 1.0
    # Room above the curves, so that the legend never lies on them.
    axis.set_ylim(0, highest * (1.06 + 0.11 * -(-len(panel.curves) // legend_columns)))
    axis.legend(
        loc="upper left",
        ncols=legend_columns,
        fontsize=8,
        facecolor="white",
        edgecolor="none",
        labelcolor=_INK,
        handlelength=1.4,
        columnspacing=1.2,
        borderaxespad=0.1,
    )


def _draw_curve(axis: Axes, curve: Curve, *, smooth: bool) -> None:
    color = COLORS[curve.color % len(COLORS)]
    mean = smoothed(curve) if smooth else curve.y
    if mean is not curve.y:
        axis.plot(curve.x, curve.y, color=color, linewidth=0.6, alpha=0.3)
    marker = "o" if len(curve.x) <= SMOOTH_ABOVE // 2 else None
    label = f"{curve.name}  {mean[-1]:.3g}"
    axis.plot(curve.x, mean, color=color, linewidth=1.8, marker=marker, markersize=3.5, label=label)
