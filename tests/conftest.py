from pathlib import Path

import pytest
from launch import CLASSIFIER, RPN, launch

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


@pytest.fixture(scope="session")
def classifier_run(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier trained through the launcher, W&B offline."""
    run = tmp_path_factory.mktemp("runs") / "classifier"
    done = launch(
        "train_classifier.py", f"data.shards={demo_shards}", f"run.dir={run}", *CLASSIFIER
    )
    assert done.returncode == 0, done.stderr
    assert "wandb sync" in done.stdout
    assert "epoch 2/2" in done.stdout
    return run


@pytest.fixture(scope="session")
def rpn_run(
    classifier_run: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An RPN on that classifier's features."""
    run = tmp_path_factory.mktemp("runs") / "rpn"
    arguments = [
        f"data.shards={demo_shards}",
        f"run.dir={run}",
        f"model.classifier={classifier_run}",
    ]
    done = launch("train_rpn.py", *arguments, *RPN)
    assert done.returncode == 0, done.stderr
    return run
