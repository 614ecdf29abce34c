from pathlib import Path

import pytest

from vocdist.shards.convert import convert
from vocdist.shards.manifest import SplitRule
from vocdist.shards.samples import samples_of
from vocdist.voc.classes import VOC_CLASSES
from vocdist.voc.demo import write_demo_dataset


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC root of 45 drawn images, both orientations."""
    root = tmp_path_factory.mktemp("voc") / "demo"
    write_demo_dataset(root, images=45, seed=5)
    return root


@pytest.fixture(scope="session")
def demo_shards(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those images as shards: 36 train samples in 3 tars, 9 val samples in one."""
    folder = tmp_path_factory.mktemp("shards") / "demo"
    samples = samples_of(
        demo_root,
        VOC_CLASSES,
        split_lists=False,
        split_ratio=0.8,
        split_seed=42,
        skip_difficult=False,
    )
    convert(
        samples,
        folder,
        name="demo",
        classes=VOC_CLASSES,
        split_rule=SplitRule(kind="seeded", ratio=0.8, seed=42),
        skip_difficult=False,
        samples_per_shard=12,
    )
    return folder
