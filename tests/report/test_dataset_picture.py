import io

import numpy as np
import pytest
from PIL import Image

from vocdist.report.dataset import SplitBoxes, plot_dataset


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
