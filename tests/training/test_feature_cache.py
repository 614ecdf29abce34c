import gc
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from vocdist.config import RpnConfig
from vocdist.config.file import load_config
from vocdist.data.loader import BatchLoader
from vocdist.errors import UserError
from vocdist.models.backbone import FrozenBackbone, build_network
from vocdist.tasks.task import Task, build_task
from vocdist.training import feature_cache
from vocdist.training.feature_cache import GIB, backbone_hash, plan_units
from vocdist.training.loaders import (
    build_loader,
    build_reader,
    build_readers,
    split_loader,
    training_loaders,
)
from vocdist.training.run import train

SETTINGS = [
    "model.classifier=none",
    "model.weights=none",
    "model.strides=[16,32]",
    "model.scales=[[16],[48]]",
    "model.hidden=16",
    "input.short_side=64",
    "input.long_side=128",
    "input.pad_multiple=32",
    "input.snap=true",
    "input.flip=true",
    "features.cache=true",
    "data.num_workers=0",
    "train.global_batch=8",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
    "runtime.device=cpu",
]


def configured(shards: Path, folder: Path, *more: str) -> RpnConfig:
    own = [f"data.shards={shards}", f"features.folder={folder / 'cache'}"]
    return load_config(RpnConfig, None, [*SETTINGS, *own, f"run.dir={folder / 'run'}", *more])


@pytest.fixture(scope="module")
def task(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Task:
    torch.manual_seed(0)
    config = configured(demo_shards, tmp_path_factory.mktemp("none"))
    return build_task(config, build_reader(config, "train"), pretrained=False)


def loader_of(config: RpnConfig, task: Task, *, training: bool) -> BatchLoader:
    split = "train" if training else "val"
    return split_loader(
        config, task, build_reader(config, split), Accelerator(cpu=True), training=training
    )


@pytest.mark.parametrize("training", [True, False])
def test_batches_are_those_of_the_images_with_features_for_pixels(
    demo_shards: Path, task: Task, tmp_path: Path, training: bool
) -> None:
    config = configured(demo_shards, tmp_path)
    cached = loader_of(config, task, training=training)
    images = build_loader(config, cached.dataset.reader, training=training)
    pairs = list(
        zip(cached.training(epoch=1), images.training(epoch=1), strict=True)
        if training
        else zip(cached.evaluation(), images.evaluation(), strict=True)
    )
    assert sum(len(ours.indices) for ours, _ in pairs) == len(cached.dataset)
    for ours, theirs in pairs:
        assert ours.size == theirs.size == tuple(theirs.images.shape[2:])
        for name in ("indices", "weights", "seeds"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        for name, target in theirs.targets.items():
            assert torch.equal(ours.targets[name], target)
        expected = task.model.features(theirs.inputs, theirs.targets["image_size"])
        for found, level in zip(ours.inputs, expected, strict=True):
            assert found.dtype == torch.float16
            assert found.is_contiguous(memory_format=torch.channels_last)
            torch.testing.assert_close(found.float(), level, rtol=2e-3, atol=2e-3)


def test_features_are_found_again_and_damaged_ones_made_anew(
    demo_shards: Path, task: Task, tmp_path: Path
) -> None:
    config = configured(demo_shards, tmp_path)
    first = next(loader_of(config, task, training=True).training(epoch=0))
    files = sorted((tmp_path / "cache").glob("*.safetensors"))
    assert len(files) == 2 * 3
    made = {path: path.stat().st_ino for path in files}
    content = files[0].read_bytes()
    files[0].write_bytes(content[:-3] + b"xxx")
    again = next(loader_of(config, task, training=True).training(epoch=0))
    assert all(map(torch.equal, first.inputs, again.inputs))
    assert files[0].read_bytes() == content
    # Its other copy is made with it; the two other pairs stay.
    assert sum(path.stat().st_ino == made[path] for path in files) == 4


def test_features_are_read_through_once_and_kept_by_their_evaluation_batch(
    demo_shards: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(demo_shards, tmp_path)
    loader_of(config, task, training=False)
    files = sorted((tmp_path / "cache").glob("*.safetensors"))
    for path in files:
        os.utime(path, (1e9, 1e9))
    read: list[Path] = []

    def is_whole(path: Path, samples: int) -> bool:
        read.append(path)
        return real(path, samples)

    real = feature_cache.is_whole
    monkeypatch.setattr(feature_cache, "is_whole", is_whole)
    for _ in range(3):
        loader_of(config, task, training=False)
    assert sorted(read) == files
    # They were used now, which keeps them from going first, and are as old as they were.
    assert {path.stat().st_mtime for path in files} == {1e9}
    assert all(path.stat().st_atime > 1e9 for path in files)
    monkeypatch.undo()
    content = bytearray(files[0].read_bytes())
    content[-1] ^= 1
    with files[0].open("r+b") as stream:  # what a disk may do: no time changes
        stream.write(content)
    os.utime(files[0], (1e9, 1e9))
    checked = dict(feature_cache.drop_damaged_features(tmp_path / "cache"))
    assert checked == {path: path != files[0] for path in files}
    assert not files[0].exists()
    # Batches of another size round otherwise.
    loader_of(configured(demo_shards, tmp_path, "train.eval_batch=3"), task, training=False)
    assert len(set((tmp_path / "cache").glob("*.safetensors")) - set(files)) == len(files)


def test_a_run_that_goes_on_without_its_features_ends_with_the_same_bits(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of tiny images, PyTorch's own gradients vary from run to run on several threads.
    monkeypatch.setattr("vocdist.distributed.processes.usable_cores", lambda: 1)
    lasting = ["train.epochs=2", "train.save_every=3", "train.keep=20", "optim.lr=0.01"]
    train(configured(demo_shards, tmp_path / "whole", *lasting))
    checkpoints = sorted((tmp_path / "whole" / "run" / "checkpoints").glob("step-*"))
    assert len(checkpoints) > 3
    resume = f"train.resume={checkpoints[0]}"
    # A cache folder of its own, so that its features are computed by the restored backbone.
    train(configured(demo_shards, tmp_path / "broken", *lasting, resume))
    ours, theirs = (
        load_file(tmp_path / name / "run" / "model.safetensors") for name in ("broken", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    caches = [
        sorted((tmp_path / name / "cache").glob("*.safetensors")) for name in ("broken", "whole")
    ]
    assert len(caches[0]) == 7
    assert [path.name for path in caches[0]] == [path.name for path in caches[1]]
    before = load_file(checkpoints[0] / "model.safetensors")
    assert not all(torch.equal(before[name], theirs[name]) for name in theirs)


def test_names_depend_on_weights_shards_and_copies(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(demo_shards, tmp_path)
    backbone = FrozenBackbone(build_network("mobilenet_v3_small"), "mobilenet_v3_small", (16, 32))

    def names(split: str, *more: str, mirrored: bool = True) -> set[Path]:
        identity = [backbone_hash(backbone), *more]
        units = plan_units(build_reader(config, split), tmp_path, identity, mirrored=mirrored)
        assert [unit.first for unit in units[1:]] == [unit.stop for unit in units[:-1]]
        return {file for unit in units for file in unit.files}

    first = names("train", "64")
    assert len(first) == 6 and first == names("train", "64")
    assert names("train", "64", mirrored=False) < first
    assert not first & (names("train", "96") | names("val", "64"))
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "PREPROCESSING_VERSION", -1)
        assert not first & names("train", "64")
    with torch.no_grad():
        next(backbone.parameters()).view(-1)[0] += 1e-3
    assert not first & names("train", "64")


def test_both_splits_find_room_together_or_are_refused_together(
    demo_shards: Path, task: Task, tmp_path: Path
) -> None:
    def loaders(gib: float) -> tuple[BatchLoader, BatchLoader]:
        config = configured(demo_shards, tmp_path, f"features.max_gib={gib:.12f}")
        made = training_loaders(config, task, build_readers(config), Accelerator(cpu=True))
        return made.train, made.val

    train_loader, val_loader = loaders(1)
    files = list((tmp_path / "cache").glob("*.safetensors"))
    size = {path: path.stat().st_size for path in files}
    train = sum(size[path] for unit in train_loader.dataset.files.units for path in unit.files)
    both = sum(size.values())
    del train_loader, val_loader
    gc.collect()
    # Room for the train split, but not for both: nothing is computed, and nothing removed.
    with pytest.raises(UserError, match="splits take .* GiB in all, more than"):
        loaders((train + both) / 2 / GIB)
    assert all(path.exists() for path in files)
    shutil.rmtree(tmp_path / "cache")
    ours = loaders(1.01 * both / GIB)
    assert list(ours[0].training(0)) and list(ours[1].evaluation())
    # Another run's features have no room beside these while they are in use.
    other = configured(
        demo_shards, tmp_path, "input.short_side=96", f"features.max_gib={1.5 * both / GIB:.12f}"
    )
    with pytest.raises(UserError, match="those of runs that are going"):
        loader_of(other, task, training=True)
    assert {path.name for path in (tmp_path / "cache").glob("*.safetensors")} == {
        path.name for path in files
    }


def test_a_folder_that_cannot_be_used_is_named(
    demo_shards: Path, task: Task, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"cache: cannot be used .* name another features\.folder"):
        loader_of(configured(demo_shards, tmp_path), task, training=True)


def test_padding_and_a_cache_do_not_go_together(
    demo_shards: Path, task: Task, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"input\.snap=true"):
        loader_of(configured(demo_shards, tmp_path, "input.snap=false"), task, training=True)
