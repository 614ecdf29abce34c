import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from converted import converted
from demo_data import write_demo_dataset
from launch import CLASSIFIER, RPN, launch

from vocdist.files.lock import locked


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is known of shards goes into a folder of this session, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VOCDIST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure(config: pytest.Config) -> None:
    """Keep each process of pytest on one core: a run that it starts has one thread there.

    Then all runs round alike, however they are started, and tests side by side do not slow each
    other down.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    starts_workers = worker is None and config.getoption("numprocesses", None)
    if starts_workers or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int((worker or "gw0").removeprefix("gw")) % len(cores)]})


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """What `make` puts into a folder: made by one process of pytest, and a copy for each.

    A training costs half a minute, and several processes of pytest want the same one.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    done = shared / f"{name}.done"
    with locked(shared / f"{name}.lock", create=True):
        if not done.exists():
            make(shared / name)
            done.touch()
    return Path(shutil.copytree(shared / name, factory.mktemp("copies") / name, symlinks=True))


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC root of 45 drawn images, both orientations."""
    root = tmp_path_factory.mktemp("voc") / "demo"
    write_demo_dataset(root, images=45, seed=5)
    return root


@pytest.fixture(scope="session")
def demo_shards(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those images as shards: 36 train samples in 3 tars, 9 val samples in one."""
    return converted(demo_root, tmp_path_factory.mktemp("shards") / "demo")


@pytest.fixture(scope="session")
def classifier_run(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier trained through the launcher, W&B offline."""

    def train(run: Path) -> None:
        done = launch(
            "train_classifier.py", f"data.shards={demo_shards}", f"run.dir={run}", *CLASSIFIER
        )
        assert done.returncode == 0, done.stderr
        assert "wandb sync" in done.stdout
        assert "epoch 2/2" in done.stdout

    return made_once(tmp_path_factory, "classifier", train)


@pytest.fixture(scope="session")
def rpn_run(
    classifier_run: Path, demo_shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An RPN on that classifier's features."""

    def train(run: Path) -> None:
        settings = [f"data.shards={demo_shards}", f"model.classifier={classifier_run}"]
        done = launch("train_rpn.py", f"run.dir={run}", *settings, *RPN)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "rpn", train)
