import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import vocdist
from vocdist import Classifier, RegionProposalNetwork, ShardDataset, UserError, load_manifest
from vocdist.inference.export import metadata_of
from vocdist.inference.images import input_batches
from vocdist.inference.trained import load_trained
from vocdist.runs.checkpoint import load_model, read_metadata
from vocdist.shards.reader import ShardReader
from vocdist.tasks.classifier import ClassifierTask
from vocdist.tasks.rpn import RpnTask
from vocdist.tasks.task import load_run_config
from vocdist.training.evaluation import load_task
from vocdist.training.loaders import build_loader, build_reader


@pytest.fixture(scope="module")
def classifier(classifier_run: Path) -> Classifier:
    return Classifier.load(classifier_run, device="cpu")


@pytest.fixture(scope="module")
def proposer(rpn_run: Path) -> RegionProposalNetwork:
    return RegionProposalNetwork.load(str(rpn_run), device="cpu")


@pytest.fixture(scope="module")
def val_files(demo_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The images of the val split as files."""
    folder = tmp_path_factory.mktemp("val")
    reader = ShardReader(demo_shards, "val")
    for index, notes in enumerate(reader.annotations):
        (folder / f"{notes.key}.jpg").write_bytes(reader.read(index).jpeg)
    return [folder / f"{notes.key}.jpg" for notes in reader.annotations]


def test_the_package_has_what_it_names() -> None:
    assert {getattr(vocdist, name) is not None for name in vocdist.__all__} == {True}
    assert "Classifier" in dir(vocdist)
    with pytest.raises(AttributeError, match="has no 'Clasifier': it has Classifier"):
        getattr(vocdist, "Clasifier")  # noqa: B009


def test_a_split_is_a_data_set_of_plain_samples(demo_shards: Path) -> None:
    assert load_manifest(str(demo_shards)).splits["val"].samples == 9
    val = ShardDataset(str(demo_shards), "val")
    sample = val[-1]
    assert len(val) == 9 == len(list(val)) and sample.key == val[8].key
    height, width = sample.image.shape[1:]
    assert sample.image.dtype == torch.uint8
    assert (sample.boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert (sample.boxes[:, :2] < sample.boxes[:, 2:]).all()
    assert len(sample.boxes) == len(sample.labels) == len(sample.difficult) > 0
    assert val.classes[int(sample.labels[0])] in load_manifest(demo_shards).classes
    with pytest.raises(IndexError):
        val[9]


def test_inputs_are_those_of_the_evaluation_to_the_last_bit(
    classifier_run: Path, rpn_run: Path, val_files: list[Path]
) -> None:
    for run in (classifier_run, rpn_run):
        config = load_run_config(run, ["data.num_workers=0", "train.eval_batch=1"])
        view = load_trained(run, "cpu").view
        loader = build_loader(config, build_reader(config, "val"), training=False)
        evaluated = {int(batch.indices): batch for batch in loader.evaluation()}
        seen = 0
        for inputs in input_batches(val_files, view, batch=4):
            assert inputs.batch is not None and not inputs.unreadable
            for image, index in zip(inputs.batch.images, inputs.batch.indices, strict=True):
                assert torch.equal(image, evaluated[int(index)].images[0])
                seen += 1
        assert seen == len(val_files) == 9


def test_predictions_are_those_of_the_evaluation(
    classifier: Classifier, classifier_run: Path, val_files: list[Path]
) -> None:
    config = load_run_config(classifier_run, ["data.num_workers=0"])
    task = load_task(config, classifier_run)
    assert isinstance(task, ClassifierTask)
    task.model.eval()
    loader = build_loader(config, build_reader(config, "val"), training=False)
    with torch.no_grad():
        evaluated = {
            index: record["scores"]
            for batch in loader.evaluation()
            for index, record in zip(
                batch.indices.tolist(), task.records(task.model, batch), strict=True
            )
        }
    predictions = classifier.predict(val_files, batch=4)
    assert [prediction.name for prediction in predictions] == [str(file) for file in val_files]
    for index, prediction in enumerate(predictions):
        row = [prediction.scores[name] for name in classifier.classes]
        np.testing.assert_allclose(row, evaluated[index], atol=1e-5)
        assert list(prediction.scores.values()) == sorted(row, reverse=True)
        reached = {n for n, s in prediction.scores.items() if s >= classifier.thresholds[n]}
        assert set(prediction.present) == reached


def test_proposals_are_those_of_the_evaluation(
    proposer: RegionProposalNetwork, rpn_run: Path, val_files: list[Path]
) -> None:
    # Alone in their batches, evaluation pads images no more than their own size asks for.
    config = load_run_config(rpn_run, ["data.num_workers=0", "train.eval_batch=1"])
    task = load_task(config, rpn_run)
    assert isinstance(task, RpnTask)
    task.model.eval()
    loader = build_loader(config, build_reader(config, "val"), training=False)
    found = proposer.propose(val_files, count=50)
    with torch.no_grad():
        for batch in loader.evaluation():
            output, shapes = task.model(batch.inputs, batch.targets["image_size"])
            expected = task.propose(output, shapes, batch)[0]
            index = int(batch.indices)
            ours, sizes = found[index], batch.targets
            scale = (sizes["stored_size"] / sizes["image_size"])[0].flip(0).repeat(2)
            np.testing.assert_allclose(ours.boxes, (expected.boxes * scale)[:50], atol=1e-2)
            np.testing.assert_allclose(ours.scores, expected.scores[:50], atol=1e-5)
            assert ours.size_hw == tuple(sizes["stored_size"][0].tolist())
            assert 0 < len(ours.boxes) <= 50


def test_kinds_of_images_and_their_company_do_not_matter(
    classifier: Classifier, proposer: RegionProposalNetwork, val_files: list[Path]
) -> None:
    files = val_files[:4]
    images = [Image.open(file) for file in files]
    mixed = [files[0], images[1], np.asarray(images[2]), str(files[3])]
    together, alone = classifier.predict(mixed), classifier.predict(val_files[2])
    assert [p.name for p in together] == [str(files[0]), "image 1", "image 2", str(files[3])]
    assert together[2].scores == pytest.approx(alone[0].scores, abs=1e-5)
    boxes = [found.boxes for found in proposer.propose(mixed)]
    for position, image in enumerate(images):
        np.testing.assert_allclose(boxes[position], proposer.propose(image)[0].boxes, atol=1e-2)


def test_loader_processes_change_nothing(classifier: Classifier, val_files: list[Path]) -> None:
    here, there = classifier.predict(val_files), classifier.predict(val_files, workers=1)
    assert here == there


def test_an_image_that_is_none_is_named(
    classifier: Classifier, val_files: list[Path], tmp_path: Path
) -> None:
    header_only = tmp_path / "cut.jpg"
    header_only.write_bytes(val_files[0].read_bytes()[:300])
    with pytest.raises(UserError, match=r"cut\.jpg: not a readable image .*leave it out"):
        classifier.predict([val_files[0], header_only])


def test_the_weights_file_alone_is_enough(
    classifier: Classifier,
    proposer: RegionProposalNetwork,
    classifier_run: Path,
    rpn_run: Path,
    val_files: list[Path],
    tmp_path: Path,
) -> None:
    for run, name in ((classifier_run, "cls"), (rpn_run, "rpn")):
        shutil.copy(run / "model.safetensors", tmp_path / f"{name}.safetensors")
    alone = Classifier.load(tmp_path / "cls.safetensors", device="cpu")
    assert alone.predict(val_files[0]) == classifier.predict(val_files[0])
    boxes = RegionProposalNetwork.load(tmp_path / "rpn.safetensors", device="cpu")
    np.testing.assert_array_equal(
        boxes.propose(val_files[0])[0].boxes, proposer.propose(val_files[0])[0].boxes
    )


def test_thresholds_of_the_classes_travel_with_the_weights(
    classifier: Classifier, classifier_run: Path, val_files: list[Path], tmp_path: Path
) -> None:
    chosen = [0.0 if i % 2 else 1.0 for i in range(len(classifier.classes))]
    weights = classifier_run / "model.safetensors"
    metadata = read_metadata(weights) | {"thresholds": json.dumps(chosen)}
    save_file(load_file(weights), tmp_path / "chosen.safetensors", metadata)
    loaded = Classifier.load(tmp_path / "chosen.safetensors", device="cpu")
    assert [loaded.thresholds[name] for name in loaded.classes] == chosen
    assert set(loaded.predict(val_files[0])[0].present) == set(classifier.classes[1::2])
    assert json.loads(metadata_of(loaded.trained)["thresholds"]) == chosen


def test_a_run_that_still_trains_has_its_best_checkpoint(
    classifier: Classifier, classifier_run: Path, val_files: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(classifier_run, run, ignore=shutil.ignore_patterns("model.safetensors"))
    (run / "config.yaml").write_bytes((classifier_run / "config.yaml").read_bytes())
    for checkpoint in (classifier_run / "checkpoints").glob("step-*"):
        weights = checkpoint / "model.safetensors"
        shutil.copy(weights, run / "checkpoints" / checkpoint.name / weights.name)
    training = Classifier.load(run, device="cpu")
    assert training.classes == classifier.classes
    # Thresholds are chosen at the end: until then one half counts as present.
    (now,), (final,) = training.predict(val_files[0]), classifier.predict(val_files[0])
    assert now.scores == final.scores


def test_mistakes_are_answered_with_the_remedy(
    classifier_run: Path, rpn_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"is Region Proposal Network.*scripts/propose\.py"):
        Classifier.load(rpn_run)
    with pytest.raises(UserError, match=r"is Multi-label classifier.*scripts/predict\.py"):
        RegionProposalNetwork.load(classifier_run)
    with pytest.raises(UserError, match="train one with"):
        Classifier.load(tmp_path)
    with pytest.raises(UserError, match="choose auto, cpu"):
        Classifier.load(classifier_run, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch finds no such device"):
            Classifier.load(classifier_run, device="cuda")


def test_numbers_that_cannot_be_are_refused(
    classifier: Classifier, proposer: RegionProposalNetwork, val_files: list[Path]
) -> None:
    with pytest.raises(UserError, match="batch=0"):
        classifier.predict(val_files, batch=0)
    for count in (0, -1):
        with pytest.raises(UserError, match=f"count={count}: ask for 1 box or more"):
            proposer.propose(val_files[:1], count=count)


def test_weights_of_another_network_are_told_apart(
    classifier: Classifier, classifier_run: Path, tmp_path: Path
) -> None:
    state = load_file(classifier_run / "model.safetensors")
    names = sorted(name for name in state if name.endswith("weight"))
    changed = {name: value for name, value in state.items() if name != names[0]}
    changed |= {names[1]: torch.zeros(1, 2), "odd": torch.zeros(1)}
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(UserError) as caught:
        load_model(classifier.trained.task.model, tmp_path / "other.safetensors")
    said = str(caught.value)
    assert f"1 missing, as {names[0]}; 1 not of this model, as odd" in said
    assert f"1 of another shape, as {names[1]}: (1, 2) where " in said
    assert "set model.*" in said
