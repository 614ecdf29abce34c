import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from vocdist.errors import UserError
from vocdist.report.curves import COLORS, PICTURE_SIZE, plot_curves
from vocdist.report.run_data import read_rows

BLUE, ORANGE = COLORS[:2]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def classifier_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"global_step": step, "epoch": step / 10, "train/loss": 1 / step, "train/lr": 3e-4}
        for step in range(1, 31)
    ]
    rows += [
        {"global_step": 10 * epoch, "epoch": epoch, "val/loss": 0.5, "val/mAP": 0.2 * epoch}
        for epoch in (1, 2, 3)
    ]
    return rows


def color_columns(picture: Path, color: str) -> list[int]:
    """x of the pixels that have exactly this color."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    matches = (pixels == np.round(np.array(to_rgb(color)) * 255)).all(axis=-1)
    return np.flatnonzero(matches.any(axis=0)).tolist()


def test_the_picture_has_the_stated_size_and_every_panel_its_curves(tmp_path: Path) -> None:
    output = tmp_path / "new" / "curves.png"
    plot_curves(write_rows(tmp_path / "metrics.jsonl", classifier_rows()), "classifier", output)
    with Image.open(output) as picture:
        assert (picture.format, picture.size) == ("PNG", PICTURE_SIZE)
    blue, orange = (color_columns(output, color) for color in (BLUE, ORANGE))
    third = PICTURE_SIZE[0] / 3
    # Each panel's first curve is blue, and val loss orange.
    for panel in range(3):
        assert any(panel * third < x - third / 5 < (panel + 1) * third for x in blue)
    assert max(orange) < 1.2 * third
    assert [path.name for path in output.parent.iterdir()] == ["curves.png"]


def test_an_rpn_shows_the_parts_of_its_loss_and_its_two_metrics(tmp_path: Path) -> None:
    output = tmp_path / "curves.png"
    rows: list[dict[str, Any]] = [
        {"global_step": s, "epoch": s, "val/objectness": 0.6, "val/box": 0.3 + 1 / s}
        | {"val/recall50@200": 0.6, "val/AR@200": 0.3}
        for s in range(1, 9)
    ]
    plot_curves(write_rows(tmp_path / "metrics.jsonl", rows), "rpn", output)
    orange, half = color_columns(output, ORANGE), PICTURE_SIZE[0] / 2
    assert min(orange) < half < max(orange)


def test_the_same_rows_give_the_same_bytes_whatever_was_drawn_before(tmp_path: Path) -> None:
    metrics = write_rows(tmp_path / "metrics.jsonl", classifier_rows())
    for name in ("a.png", "b.png"):
        plot_curves(metrics, "classifier", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_after_a_resume_the_later_row_of_a_step_counts(tmp_path: Path) -> None:
    rows = classifier_rows()
    twice = [{**rows[4], "train/loss": 77.0}, *rows]
    for name, content in (("once", rows), ("twice", twice)):
        plot_curves(
            write_rows(tmp_path / "metrics.jsonl", content), "classifier", tmp_path / f"{name}.png"
        )
    assert (tmp_path / "once.png").read_bytes() == (tmp_path / "twice.png").read_bytes()


def test_a_last_line_cut_short_is_left_out_and_others_are_refused(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"global_step": 1}\n{"global_st', encoding="utf-8")
    assert read_rows(metrics) == [{"global_step": 1}]
    metrics.write_text('{"global_st\n{"global_step": 1}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"metrics\.jsonl:1: not a JSON object"):
        read_rows(metrics)


@pytest.mark.parametrize("rows", [[], [{"global_step": 1, "epoch": 0.1, "perf/images_per_s": 9.0}]])
def test_without_a_known_value_it_says_so(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="nothing to plot yet"):
        plot_curves(
            write_rows(tmp_path / "metrics.jsonl", rows), "classifier", tmp_path / "curves.png"
        )
    assert not (tmp_path / "curves.png").exists()


def test_one_step_is_enough(tmp_path: Path) -> None:
    rows = [{"global_step": 1, "epoch": 0.5, "train/loss": 0.0}]
    plot_curves(write_rows(tmp_path / "metrics.jsonl", rows), "classifier", tmp_path / "curves.png")
    assert color_columns(tmp_path / "curves.png", BLUE)
