import re

import numpy as np
import pytest

from vocdist.report.charts import (
    MOST_POINTS,
    Axis,
    Frame,
    Series,
    chart,
    nice_ticks,
    running_mean,
    thinned,
    upper_bound,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (3, 47, [10, 20, 30, 40]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("highest", [1e-7, 0.03, 0.999, 1.0, 7.0, 12345.0])
def test_the_bound_is_a_little_above(highest: float) -> None:
    assert highest < upper_bound([0.0, highest, np.nan]) <= 1.3 * highest


def test_a_bound_of_nothing_is_one() -> None:
    assert upper_bound([]) == upper_bound([0.0]) == upper_bound([np.nan]) == 1.0


def test_points_lie_where_the_axes_say() -> None:
    frame = Frame(width=140, height=120, left=20, right=20, top=10, bottom=10)
    x, y = Axis(1, 100, log=True), Axis(0, 10)
    svg = chart([Series("a", [1, 10, 100], [0, 5, 10])], x, y, frame=frame)
    assert '<path class="line c0" d="M20.0 110.0L70.0 60.0L120.0 10.0">' in svg


def test_a_gap_breaks_the_line_and_a_single_point_is_seen() -> None:
    svg = chart([Series("", [0, 1, 2], [0, np.nan, 1])], Axis(0, 2), Axis(0, 1))
    assert "nan" not in svg
    assert len(re.findall("M", re.search(r'class="line c0" d="([^"]*)"', svg)[1])) == 2
    assert '<circle class="point c3"' in chart([Series("", [1], [1], 3)], Axis(0, 2), Axis(0, 1))


def test_many_points_become_means_of_neighbours() -> None:
    x, y = thinned(np.arange(1000.0), np.arange(1000.0) % 2)
    assert len(x) == len(y) == MOST_POINTS
    assert y.mean() == pytest.approx(0.5, abs=0.02)
    assert np.all(np.diff(x) > 0)
    few = np.arange(5.0)
    assert thinned(few, few)[0] is few


def test_the_running_mean_is_over_what_there_is() -> None:
    assert running_mean(np.array([0.0, 3.0, 6.0, 9.0]), 1).tolist() == [1.5, 3.0, 6.0, 7.5]
