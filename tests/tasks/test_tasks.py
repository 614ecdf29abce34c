import gc
import pickle
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config, save_config
from vocdist.errors import UserError
from vocdist.runs.environment import ENVIRONMENT, note_start
from vocdist.shards.convert import convert
from vocdist.shards.format import SplitRule
from vocdist.shards.reader import ShardReader
from vocdist.shards.samples import samples_of
from vocdist.tasks.classifier import ClassifierTask, positive_weights
from vocdist.tasks.rpn import RpnTask, proposal_overlays
from vocdist.tasks.rpn_model import keeps_features, resolve_backbone
from vocdist.tasks.task import Record, Task, build_task, check_shards, load_run_config
from vocdist.training.loaders import build_loader, build_reader

RPN = [
    "model.classifier=none",
    "model.weights=none",
    "input.short_side=64",
    "input.long_side=100",
    "data.num_workers=0",
]


def rpn_config(shards: Path, *more: str) -> RpnConfig:
    return load_config(RpnConfig, None, [f"data.shards={shards}", *RPN, *more])


def classifier_config(shards: Path, *more: str) -> ClassifierConfig:
    overrides = [f"data.shards={shards}", "model.weights=none", "input.size=64", *more]
    return load_config(ClassifierConfig, None, overrides)


def test_positive_weights_are_the_notebooks() -> None:
    # The class without a positive gets a finite weight that nothing will use.
    assert positive_weights(np.array([3, 1, 0]), samples=4).tolist() == pytest.approx(
        [1 / 3, 3.0, 3.0]
    )


def test_the_classifiers_loss_is_the_notebooks(demo_shards: Path) -> None:
    config = classifier_config(demo_shards, "data.num_workers=0")
    reader = build_reader(config, "train")
    task = build_task(config, reader, pretrained=True)
    task.model.eval()
    loader = build_loader(config, reader, training=True, rank=0, world_size=1)
    batch = next(loader.training(epoch=0))
    with torch.no_grad():
        loss = (task.losses(task.model, batch)["loss"] * batch.weights).sum()
        pos_weight = positive_weights(reader.labels.sum(axis=0), len(reader))
        criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
        expected = criterion(task.model(batch.images), batch.targets["labels"])
    torch.testing.assert_close(loss, expected)


def test_the_classifiers_records_become_metrics(demo_shards: Path) -> None:
    config = classifier_config(demo_shards, "data.num_workers=0")
    reader = build_reader(config, "val")
    task = build_task(config, build_reader(config, "train"), pretrained=True)
    assert isinstance(task, ClassifierTask)
    loader = build_loader(config, reader, training=False, rank=0, world_size=1)
    task.model.eval()
    with torch.no_grad():
        records = [r for batch in loader.evaluation() for r in task.records(task.model, batch)]
    metrics = task.metrics(records)
    assert metrics["samples"] == 9
    # The prior is the AP of equal scores, which an untrained network may well give.
    assert 0 < metrics["mAP_prior"] <= metrics["mAP"] <= 1


@pytest.mark.parametrize("levels", ["model.strides=[32]", "model.strides=[16, 32]"])
def test_an_rpn_step_moves_the_head_and_not_the_backbone(demo_shards: Path, levels: str) -> None:
    scales = "model.scales=[[32]]" if "16" not in levels else "model.scales=[[16], [32]]"
    config = rpn_config(demo_shards, levels, scales)
    reader = build_reader(config, "train")
    torch.manual_seed(0)
    task = build_task(config, reader, pretrained=True)
    task.model.train()
    loader = build_loader(config, reader, training=True, rank=0, world_size=1)
    batch = next(loader.training(epoch=0))
    losses = task.losses(task.model, batch)
    assert {name: tuple(value.shape) for name, value in losses.items()} == {
        name: (32,) if len(batch.indices) == 32 else (len(batch.indices),)
        for name in ("loss", "objectness", "box")
    }
    (losses["loss"] * batch.weights).sum().backward()
    learning = {n for n, p in task.model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for n, p in task.model.named_parameters() if n in learning)
    assert not any(name.startswith("backbone") for name in learning)


def test_the_baselines_of_a_split_are_not_those_of_another(demo_shards: Path) -> None:
    config = rpn_config(demo_shards)
    readers = {split: build_reader(config, split) for split in ("train", "val")}
    both, alone = (build_task(config, readers["train"], pretrained=True) for _ in range(2))

    def measured(task: Task, split: str) -> list[Record]:
        batch = next(build_loader(config, readers[split], training=False).evaluation())
        with torch.no_grad():
            return task.records(task.model.eval(), batch)

    measured(both, "train")
    after, expected = measured(both, "val"), measured(alone, "val")
    for name in ("best_grid", "best_random"):
        for one, other in zip(after, expected, strict=True):
            np.testing.assert_array_equal(one[name], other[name])


def test_an_rpns_records_count_every_box(demo_shards: Path) -> None:
    config = rpn_config(demo_shards)
    reader = build_reader(config, "val")
    task = build_task(config, build_reader(config, "train"), pretrained=True)
    loader = build_loader(config, reader, training=False, rank=0, world_size=1)
    task.model.eval()
    with torch.no_grad():
        batches = list(loader.evaluation())
        records = [r for batch in batches for r in task.records(task.model, batch)]
    metrics = task.metrics(records)
    assert metrics["samples"] == 9
    assert metrics["boxes"] == sum(len(a.boxes) for a in reader.annotations)
    assert 0 <= metrics["recall50@100"] <= metrics["recall50@200"] <= metrics["recall50@300"] <= 1
    areas = np.concatenate([np.asarray(record["areas"]) for record in records])
    order = [i for batch in batches for i in batch.indices.tolist()]
    stored = np.concatenate(
        [np.prod(reader.annotations[i].boxes[:, 3:] + 1, axis=1) for i in order]
    )
    # In pixels of the stored image, whatever the scale; VOC's w is one short of the extent.
    np.testing.assert_allclose(areas, stored, rtol=1e-3)


def test_an_image_without_boxes_is_measured_and_drawn(demo_root: Path, tmp_path: Path) -> None:
    rules = {"split_lists": False, "split_ratio": 0.5, "split_seed": 0, "skip_difficult": False}
    # One class of twenty: most images have no box of it.
    samples = samples_of(demo_root, ("person",), **rules)  # type: ignore[arg-type]
    convert(
        samples,
        tmp_path / "s",
        name="s",
        classes=("person",),
        split_rule=SplitRule(kind="seeded", ratio=0.5, seed=0),
        skip_difficult=False,
        samples_per_shard=50,
    )
    config = rpn_config(tmp_path / "s", "train.global_batch=4")
    task = build_task(config, build_reader(config, "train"), pretrained=True)
    assert isinstance(task, RpnTask)
    loader = build_loader(config, build_reader(config, "val"), training=False)
    counts = [len(a.boxes) for a in loader.dataset.reader.annotations]
    assert 0 in counts and max(counts) > 0
    task.model.eval()
    with torch.no_grad():
        records = [r for batch in loader.evaluation() for r in task.records(task.model, batch)]
    assert task.metrics(records)["boxes"] == sum(counts)
    pictures = proposal_overlays(task, loader, [counts.index(0), counts.index(max(counts))])
    assert len(pictures) == 2
    # A split of such images alone: what is not defined is not 0.
    empty = [record for record in records if not len(np.asarray(record["best"]))]
    metrics = task.metrics(empty)
    assert metrics["boxes"] == 0 and task.best_metric not in metrics
    assert task.headline_words(metrics).endswith("recall50@200 –  AR@200 –")


def test_the_classifiers_line_has_the_number_of_classes_beside_map() -> None:
    metrics = {"mAP": 0.5, "macro_f1": 0.4, "sample_f1": 0.3, "ap/a": 0.5, "f1/a": 0.4, "f1/b": 0.0}
    line = ClassifierTask.headline_words(metrics)
    assert line == "mAP 0.5000 (1 of 2 classes)  macro_f1 0.4000  sample_f1 0.3000"
    assert "classes" not in ClassifierTask.headline_words({**metrics, "ap/b": 0.1})


def test_samples_survive_the_way_to_a_spawned_worker(demo_shards: Path) -> None:
    config = rpn_config(demo_shards)
    loader = build_loader(config, build_reader(config, "train"), training=True)
    request = loader._training_parts(np.arange(3), epoch=0)[0][0]
    _, here, _ = loader.dataset[request]
    _, there, _ = pickle.loads(pickle.dumps(loader.dataset))[request]
    assert torch.equal(here.image, there.image)


def test_a_damaged_image_is_one_line_from_any_worker(demo_shards: Path, tmp_path: Path) -> None:
    shards = tmp_path / "s"
    shutil.copytree(demo_shards, shards)
    reader = ShardReader(shards, "val")
    _, entry = reader._locate(2)
    with (shards / "val-000000.tar").open("r+b") as tar:
        tar.seek(entry.jpg_offset)
        tar.write(b"\0" * entry.jpg_size)
    for workers in (0, 1):
        config = classifier_config(shards, f"data.num_workers={workers}")
        loader = build_loader(config, reader, training=False)
        with pytest.raises(UserError) as caught:
            list(loader.evaluation())
        assert f"sample {entry.key}: not a readable JPEG" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_split_that_is_not_there_is_named(demo_shards: Path) -> None:
    with pytest.raises(UserError, match="no split 'test'; its manifest has train, val"):
        build_reader(classifier_config(demo_shards), "test")


def test_levels_out_of_order_are_refused(demo_shards: Path) -> None:
    config = rpn_config(demo_shards, "model.strides=[32, 16]", "model.scales=[[64], [32]]")
    with pytest.raises(UserError, match="the finest first"):
        build_task(config, build_reader(config, "train"), pretrained=False)


def test_anchors_must_fit_the_levels(demo_shards: Path) -> None:
    config = rpn_config(demo_shards, "model.strides=[16, 32]")
    with pytest.raises(UserError, match=r"model\.scales has 1 groups for 2 levels"):
        build_task(config, build_reader(config, "train"), pretrained=False)


def test_features_come_from_where_the_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fallback = resolve_backbone(load_config(RpnConfig, None, []))
    assert (fallback.model.classifier, fallback.model.backbone) == ("none", "resnet18")
    with pytest.raises(UserError, match=r"runs/nothing: neither a weights file nor a finished"):
        resolve_backbone(load_config(RpnConfig, None, ["model.classifier=runs/nothing"]))


def test_a_runs_shards_are_found_from_another_folder(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    save_config(classifier_config(Path("shards/mine")), run / "config.yaml")
    monkeypatch.chdir(tmp_path)
    note_start(run / ENVIRONMENT, {"shards": str(demo_shards)})
    found = load_run_config(run)
    assert found.data.shards == demo_shards
    check_shards(run, found)
    named = load_run_config(run, ["data.shards=elsewhere"])
    assert named.data.shards == Path("elsewhere")
    note_start(run / ENVIRONMENT, {"shards": str(tmp_path / "gone")})
    with pytest.raises(UserError, match=r"trained on the shards in .*gone, which are not there"):
        check_shards(run, load_run_config(run))


@pytest.mark.parametrize(
    ("cache", "snap", "device", "kept"),
    [
        ("auto", True, "cpu", True),
        ("auto", True, "mps", True),
        ("auto", True, "cuda", False),
        ("auto", False, "cpu", False),
        (True, True, "cuda", True),
        (False, True, "cpu", False),
    ],
)
def test_features_are_kept_where_it_is_worth_it(
    cache: bool | str, snap: bool, device: str, kept: bool
) -> None:
    assert keeps_features(cache, snap=snap, device=device) is kept  # type: ignore[arg-type]


def test_few_shapes_are_those_of_training_evaluation_and_kept_features(demo_shards: Path) -> None:
    shapes = "[1.333,1.0,0.75]"
    config = rpn_config(
        demo_shards, f"input.aspects={shapes}", "input.pad_multiple=16", "features.cache=auto"
    )
    reader = build_reader(config, "train")
    for training in (True, False):
        loader = build_loader(config, reader, training=training)
        batches = list(loader.training(0) if training else loader.evaluation())
        found = {batch.size for batch in batches}
        assert found <= {(64, 80), (64, 64), (80, 64)} and len(found) > 1
        for batch in batches:
            assert (batch.targets["image_size"] == torch.tensor(batch.size)).all()
            boxes = batch.targets["boxes"]
            assert (boxes <= torch.tensor([*batch.size[::-1]] * 2)).all()
    task = build_task(config, reader, pretrained=False)
    frozen = task.frozen_features(config)
    assert frozen is not None
    # Other shapes are other features.
    assert frozen.geometry[4:] == (1333000, 1000000, 750000)
    plain = rpn_config(demo_shards, "input.snap=true", "features.cache=true")
    kept = task.frozen_features(plain)
    assert kept is not None and kept.geometry == (64, 100, 32, 0)
    measured = classifier_config(
        demo_shards, "input.eval_view=frame", f"input.eval_aspects={shapes}", "data.num_workers=0"
    )
    sizes = {batch.size for batch in build_loader(measured, reader, training=False).evaluation()}
    assert sizes <= {(64, 96), (64, 64), (96, 64)} and len(sizes) > 1


def test_records_that_are_read_later_do_not_keep_the_pixels(demo_shards: Path) -> None:
    config = classifier_config(demo_shards, "data.num_workers=0")
    reader = build_reader(config, "val")
    task = build_task(config, reader, pretrained=False)
    task.model.eval()
    batches = build_loader(config, reader, training=False).evaluation()
    batch = next(batches)
    batches.close()
    samples, pixels = len(batch.indices), weakref.ref(batch.inputs[0])
    with torch.no_grad():
        read = task.records_later(task.model, batch)
    del batch
    gc.collect()
    assert pixels() is None
    assert len(read()) == samples
