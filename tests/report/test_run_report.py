from pathlib import Path

import numpy as np
import pytest

from vocdist.config import RpnConfig
from vocdist.config.file import load_config
from vocdist.tasks.rpn import RpnTask
from vocdist.tasks.task import build_task
from vocdist.training.loaders import build_loader, build_reader


@pytest.mark.parametrize("snap", [True, False])
def test_the_boxes_beside_the_anchors_are_those_that_training_sees(
    snap: bool, demo_shards: Path
) -> None:
    own = [f"data.shards={demo_shards}", "data.num_workers=0", f"input.snap={snap}"]
    config = load_config(RpnConfig, Path(__file__).parents[2] / "configs/rpn.yaml", own)
    reader = build_reader(config, "train")
    seen = {}
    for batch in build_loader(config, reader, training=False).evaluation():
        boxes, mask = batch.targets["boxes"], batch.targets["box_mask"]
        for row, index in enumerate(batch.indices.tolist()):
            found = boxes[row][mask[row]]
            seen[index] = (found[:, 2:] - found[:, :2]).numpy()
    expected = np.concatenate([seen[index] for index in sorted(seen)])
    task = build_task(config, reader, pretrained=False)
    assert isinstance(task, RpnTask)
    np.testing.assert_allclose(task.train_sizes(reader), expected, rtol=1e-4, atol=1e-2)
