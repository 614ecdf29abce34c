"""What a data set looks like: classes, objects per image, sizes and shapes of boxes.

B: boxes of a split. I: its images. C: classes.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLORS = ("#2563eb", "#ea580c", "#0d9488", "#9333ea")
_INK, _GRID = "#1f2937", "#e5e7eb"
_DPI = 140
# Bars of the class panel in this many rows at least, or few classes would make fat bars.
_MIN_ROWS = 12
_MOST_OBJECTS = 12


@dataclass(frozen=True, slots=True)
class SplitBoxes:
    """The boxes of one split.

    Attributes:
        class_ids: (B,) int.
        sizes: (B, 2) float, width and height in stored pixels.
        per_image: (I,) int, boxes of each image.
    """

    class_ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.float64]
    per_image: npt.NDArray[np.int64]


def plot_dataset(splits: Mapping[str, SplitBoxes], class_names: Sequence[str]) -> bytes:
    """Draw four panels, as a PNG: boxes per class, and shares by count, size and aspect ratio.

    The last three are shares of the split, so that splits of different sizes lie on each other
    when they are alike.
    """
    rows = max(_MIN_ROWS, len(class_names))
    figure = Figure(figsize=(11, 1.2 + 0.24 * rows), dpi=_DPI, layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=[1.0, 1.1])
    _draw_classes(figure.add_subplot(grid[:, 0]), splits, class_names)
    count, size, ratio = (figure.add_subplot(grid[row, 1]) for row in range(3))
    _draw_counts(count, splits)
    sides = {name: np.sqrt(split.sizes.prod(axis=1)) for name, split in splits.items()}
    _draw_shares(size, "Box size: √(width · height), pixels", sides)
    ratios = {name: split.sizes[:, 0] / split.sizes[:, 1] for name, split in splits.items()}
    _draw_shares(ratio, "Aspect ratio: width / height", ratios)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _draw_classes(axis: Axes, splits: Mapping[str, SplitBoxes], class_names: Sequence[str]) -> None:
    counts = {
        name: np.bincount(split.class_ids, minlength=len(class_names))
        for name, split in splits.items()
    }
    order = np.argsort(sum(counts.values()), kind="stable")
    left = np.zeros(len(class_names), dtype=np.int64)
    for (name, of_split), color in zip(counts.items(), _cycle(len(counts)), strict=True):
        label = f"{name}  {of_split.sum():,}"
        axis.barh(np.arange(len(order)), of_split[order], 0.72, left, color=color, label=label)
        left = left + of_split[order]
    for row, total in enumerate(left.tolist()):
        axis.annotate(
            f"{total:,}", (total, row), (3, 0), textcoords="offset points", va="center", fontsize=7
        )
    # No mathematics: a class may be called $a$.
    axis.set_yticks(
        np.arange(len(order)), [class_names[i] for i in order], fontsize=8, parse_math=False
    )
    axis.margins(x=0.12, y=0.02)
    axis.legend(loc="lower right", fontsize=8, edgecolor="none", labelcolor=_INK)
    _style(axis, "Boxes per class", "x")


def _draw_counts(axis: Axes, splits: Mapping[str, SplitBoxes]) -> None:
    width = 0.8 / max(1, len(splits))
    numbers = np.arange(_MOST_OBJECTS + 1)
    for place, (split, color) in enumerate(zip(splits.values(), _cycle(len(splits)), strict=True)):
        capped = np.minimum(split.per_image, _MOST_OBJECTS)
        share = np.bincount(capped, minlength=len(numbers)) / max(1, len(capped))
        offset = (place - (len(splits) - 1) / 2) * width
        axis.bar(numbers + offset, share, width, color=color)
    axis.set_xticks(numbers, [*map(str, numbers[:-1]), f"{_MOST_OBJECTS}+"])
    _style(axis, "Boxes per image", "y")


def _draw_shares(axis: Axes, title: str, values: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Histograms on a logarithmic scale, where a box twice as large is as far everywhere."""
    present = [split for split in values.values() if len(split)]
    if present:
        low, high = min(s.min() for s in present), max(s.max() for s in present)
        edges = np.geomspace(low * 0.98, high * 1.02, 36).tolist()
        for split, color in zip(values.values(), _cycle(len(values)), strict=True):
            if len(split):
                weights = np.full(len(split), 1 / len(split))
                axis.hist(split, edges, weights=weights, histtype="step", color=color, lw=1.6)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    _style(axis, title, "y")


def _cycle(count: int) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def _style(axis: Axes, title: str, grid: str) -> None:
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=_INK)
    axis.tick_params(labelsize=8, length=0, colors=_INK)
    axis.tick_params(which="minor", length=0)
    axis.grid(axis=grid, color=_GRID, linewidth=0.8)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    if grid == "y":
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color("#9ca3af")
