"""Charts of a page, as SVG that takes the page's colors, light or dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from numpy.typing import ArrayLike

# A curve of more points than this is averaged down to it: no screen shows more.
MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """Points (N,) in the order in which they are joined.

    Attributes:
        name: For the legend; empty for none.
        x: (N,).
        y: (N,), NaN where the line is broken.
        color: Number of the page's color.
        style: `line`, `dashed`, `faint` (what lies behind a mean) or `dots`.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    color: int = 0
    style: Literal["line", "dashed", "faint", "dots"] = "line"


@dataclass(frozen=True)
class Axis:
    """A range with its label; `ticks` are chosen where none are given."""

    low: float
    high: float
    label: str = ""
    log: bool = False
    ticks: Sequence[float] = field(default=())

    def share(self, values: ArrayLike) -> npt.NDArray[np.float64]:
        """Where values lie between `low` (0) and `high` (1)."""
        scale: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] = (
            np.log if self.log else np.asarray
        )
        low, high = scale(np.array([self.low, self.high], dtype=np.float64))
        span = (high - low) or 1.0
        share: npt.NDArray[np.float64] = (scale(np.asarray(values, dtype=np.float64)) - low) / span
        return share


@dataclass(frozen=True)
class Frame:
    """A chart's size and the margins around its plot, in view box units."""

    width: int = 360
    height: int = 210
    left: int = 46
    right: int = 12
    top: int = 8
    bottom: int = 34

    def x(self, axis: Axis, values: ArrayLike) -> npt.NDArray[np.float64]:
        """Values to units from the left."""
        return self.left + axis.share(values) * (self.width - self.left - self.right)

    def y(self, axis: Axis, values: ArrayLike) -> npt.NDArray[np.float64]:
        """Values to units from the top."""
        return (
            self.height - self.bottom - axis.share(values) * (self.height - self.top - self.bottom)
        )


SMALL = Frame(width=168, height=122, left=24, right=6, top=8, bottom=18)


def chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    frame: Frame | None = None,
    marks: Sequence[tuple[float, float, str]] = (),
    verticals: Sequence[float] = (),
) -> Markup:
    """Lines over axes. `marks` are ringed points (x, y, words on hover), `verticals` thin lines."""
    frame = frame or Frame()
    parts = [_axes(x, y, frame)]
    bottom, top = frame.height - frame.bottom, frame.top
    for at in frame.x(x, list(verticals)):
        parts.append(f'<path class="rule" d="M{at:.1f} {top}V{bottom}"/>')
    parts += [_drawn(one, x, y, frame) for one in series]
    for mark_x, mark_y, words in marks:
        at_x, at_y = frame.x(x, mark_x), frame.y(y, mark_y)
        parts.append(
            f'<circle class="mark" cx="{at_x:.1f}" cy="{at_y:.1f}" r="4">'
            f"<title>{escape(words)}</title></circle>"
        )
    names = ", ".join(one.name for one in series if one.name)
    label = escape(f"{y.label or 'values'} over {x.label or 'x'}: {names}", quote=True)
    return Markup(
        f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers, 1, 2 or 5 times a power of ten apart, in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def upper_bound(values: ArrayLike) -> float:
    """A round number a little above the largest value; 1 where there is none."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    highest = float(array.max()) if array.size else 0.0
    if highest <= 0:
        return 1.0
    ticks = nice_ticks(0.0, highest * 1.04)
    step = ticks[1] - ticks[0] if len(ticks) > 1 else highest
    return float(math.ceil(highest * 1.02 / (step / 2)) * (step / 2))


def number(value: float) -> str:
    """A tick's text."""
    if value and (abs(value) < 1e-4 or abs(value) >= 1e5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.6g}"


def running_mean(values: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """Mean over `reach` neighbours on each side; at the ends over those that there are."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    mean: npt.NDArray[np.float64] = (total[last] - total[first]) / (last - first)
    return mean


def thinned(x: ArrayLike, y: ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """At most `MOST_POINTS` points: means of neighbours where there are more."""
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(xs) <= MOST_POINTS:
        return xs, ys
    starts = np.linspace(0, len(xs), MOST_POINTS + 1).astype(int)[:-1]
    counts = np.diff([*starts, len(xs)])
    return np.add.reduceat(xs, starts) / counts, np.add.reduceat(ys, starts) / counts


def _axes(x: Axis, y: Axis, frame: Frame) -> str:
    parts = []
    left, right = frame.left, frame.width - frame.right
    bottom = frame.height - frame.bottom
    for tick in _ticks(y, most=3 if frame.height < 150 else 5):
        at = float(frame.y(y, tick))
        parts.append(f'<path class="grid" d="M{left} {at:.1f}H{right}"/>')
        parts.append(
            f'<text x="{left - 5}" y="{at + 3.5:.1f}" text-anchor="end">{number(tick)}</text>'
        )
    for tick in _ticks(x, most=3 if frame.width < 250 else 6):
        at = float(frame.x(x, tick))
        parts.append(f'<path class="tick" d="M{at:.1f} {bottom}v3"/>')
        parts.append(
            f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="middle">{number(tick)}</text>'
        )
    parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    if x.label and frame.bottom > 25:
        parts.append(
            f'<text class="label" x="{right}" y="{frame.height - 4}" text-anchor="end">'
            f"{escape(x.label)}</text>"
        )
    return "".join(parts)


def _ticks(axis: Axis, most: int) -> Sequence[float]:
    return axis.ticks or nice_ticks(axis.low, axis.high, most)


def _drawn(one: Series, x: Axis, y: Axis, frame: Frame) -> str:
    xs, ys = frame.x(x, one.x), frame.y(y, one.y)
    title = f"<title>{escape(one.name)}</title>" if one.name else ""
    if one.style == "dots":
        # Points as strokes of no length: a tenth of the text that circles would be.
        path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(xs, ys, strict=True))
    else:
        path, pen = "", "M"
        for a, b in zip(xs, ys, strict=True):
            path += f"{pen}{a:.1f} {b:.1f}" if np.isfinite(b) else ""
            pen = "L" if np.isfinite(b) else "M"
        if len(xs) == 1:
            # A line of one point would not be seen.
            return (
                f'<circle class="point c{one.color}" cx="{xs[0]:.1f}" cy="{ys[0]:.1f}" r="3">'
                f"{title}</circle>"
            )
    return f'<path class="{one.style} c{one.color}" d="{path}">{title}</path>'
