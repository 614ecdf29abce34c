import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from voc_on_disk import VocRoot

from vocdist.shards.convert import convert
from vocdist.shards.format import Manifest, SplitRule
from vocdist.shards.samples import samples_of
from vocdist.voc.classes import VOC_CLASSES


@pytest.fixture
def voc_root(tmp_path: Path) -> VocRoot:
    """An empty VOC root."""
    return VocRoot(tmp_path / "voc")


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VOC root of 23 good samples; not to be changed."""
    return VocRoot(tmp_path_factory.mktemp("small") / "voc").fill(23).path


@pytest.fixture(scope="session")
def make() -> Callable[..., Manifest]:
    """Convert a root: the settings of either half are keywords."""

    def run(root: Path, output: Path, **settings: object) -> Manifest:
        classes = settings.pop("classes", VOC_CLASSES)
        workers, name = settings.pop("workers", 1), settings.pop("name", "test")
        per_shard = settings.pop("samples_per_shard", 5)
        reading = {"split_lists": False, "split_ratio": 0.8, "split_seed": 42}
        reading |= {"skip_difficult": False} | settings
        samples = samples_of(root, classes, workers=workers, **reading)
        rule = SplitRule(kind="seeded", ratio=0.8, seed=reading["split_seed"])
        if samples.split_kind == "lists":
            rule = SplitRule(kind="lists", ratio=None, seed=None)
        return convert(
            samples,
            output,
            name=name,
            classes=classes,
            split_rule=rule,
            skip_difficult=reading["skip_difficult"],
            samples_per_shard=per_shard,
            workers=workers,
        )

    return run


@pytest.fixture(scope="session")
def small_shards(small_root: Path, make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small root in shards of five: 18 train samples in 4 tars, 5 val in 1; not to change."""
    folder = tmp_path_factory.mktemp("small-shards") / "test"
    make(small_root, folder)
    return folder


@pytest.fixture(scope="session")
def hashes() -> Callable[[Path], dict[str, str]]:
    """File name -> hash of all that is in a folder, hidden files too."""

    def of(folder: Path) -> dict[str, str]:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
        }

    return of


@pytest.fixture(scope="session")
def finish(small_root, make, hashes):
    """Run the same conversion to its end, in this process: the hashes of what is then there."""

    def in_process(output: Path, workers: int = 1) -> dict[str, str]:
        make(small_root, output, samples_per_shard=2, split_seed=3, workers=workers)
        return hashes(output)

    return in_process


@pytest.fixture(scope="session")
def undisturbed(finish, tmp_path_factory):
    return finish(tmp_path_factory.mktemp("undisturbed") / "test")
