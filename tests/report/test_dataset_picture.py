import io
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vocdist.errors import UserError
from vocdist.report.dataset import SplitBoxes, plot_dataset
from vocdist.report.dataset_pictures import have_pictures, save_pictures, statistics_apart
from vocdist.shards.plan import PlannedSample


def boxes(count: int, classes: int, seed: int = 0) -> SplitBoxes:
    rng = np.random.default_rng(seed)
    return SplitBoxes(
        rng.integers(0, classes, count),
        rng.uniform(1, 500, (count, 2)),
        rng.integers(0, 40, count // 2 + 1),
    )


@pytest.mark.parametrize(
    ("splits", "names"),
    [
        ({"train": boxes(900, 20), "val": boxes(200, 20, 1)}, [f"class {i}" for i in range(20)]),
        ({"all": boxes(7, 3)}, ["hard hat", "$vest", "[person]_$"]),
        ({"train": boxes(3, 1), "val": boxes(0, 1)}, ["größe"]),
        ({"train": boxes(0, 2), "val": boxes(0, 2)}, ["a", "b"]),
        ({str(i): boxes(50, 80, i) for i in range(5)}, [f"c{i}" for i in range(80)]),
    ],
)
def test_any_data_set_gets_its_picture(splits: dict[str, SplitBoxes], names: list[str]) -> None:
    with Image.open(io.BytesIO(plot_dataset(splits, names))) as image:
        assert image.width == 1540
        assert image.height >= 500
        assert np.asarray(image.convert("L")).std() > 10


def sample(key: str, rows: list[list[int]]) -> PlannedSample:
    record = json.dumps({"key": key, "boxes": rows}).encode()
    return PlannedSample(key, f"{key}.jpg", b"", record, tuple(row[0] for row in rows))


def test_statistics_are_drawn_in_another_process_even_of_an_empty_split() -> None:
    splits = {
        "train": [sample("a", [[0, 1, 1, 9, 9], [1, 2, 2, 5, 5]]), sample("b", [])],
        "val": [],
    }
    with statistics_apart(splits, ["cat", "dog"]) as statistics:
        drawing = statistics.recv_bytes()
    apart = {
        "train": SplitBoxes(np.array([0, 1]), np.array([[10.0, 10], [6, 6]]), np.array([2, 0])),
        "val": SplitBoxes(np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0, np.int64)),
    }
    assert drawing == plot_dataset(apart, ["cat", "dog"])
    assert not multiprocessing.active_children()


def test_what_draws_may_be_killed(tmp_path: Path) -> None:
    with statistics_apart({"train": []}, ["cat"]) as statistics:
        (process,) = multiprocessing.active_children()
        process.kill()
        with pytest.raises(UserError, match="the shards are complete.*pictures=false"):
            save_pictures(tmp_path, statistics)
    assert not have_pictures(tmp_path) and not list(tmp_path.iterdir())
