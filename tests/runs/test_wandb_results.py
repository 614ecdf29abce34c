"""What W&B gets besides rows, read back from the files of a real offline run."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import CLASSES, classifier_predictions, examples, made_run, rpn_predictions
from safetensors.torch import save_file
from torch import ones
from wandb_file import read_history, read_records

from vocdist.report.wandb_results import note_best, note_data_set, result_values
from vocdist.runs.folder import FINAL_WEIGHTS
from vocdist.runs.predictions import PREDICTIONS, Predictions, save_predictions
from vocdist.runs.tracking import Tracker
from vocdist.shards.reader import ShardReader


def logged(run_dir: Path, predictions: Predictions, shards: Path) -> dict[str, float]:
    """Write an offline W&B run with all of it; returns the metrics that were logged."""
    run_dir.mkdir()
    save_predictions(run_dir / PREDICTIONS, predictions, examples(predictions))
    save_file({"a": ones(2)}, run_dir / FINAL_WEIGHTS)
    metrics = made_run(predictions).metrics
    with Tracker(run_dir, mode="offline", project="p", config={}) as tracker:
        note_data_set(tracker.run, ShardReader(shards, "train"))
        tracker.log_pictures({}, 7, result_values(run_dir, metrics))
        note_best(tracker.run, run_dir, metrics)
    return metrics


def media(run_dir: Path, name: str) -> Any:
    """Content of a JSON file that a logged value names."""
    (path,) = run_dir.rglob(f"files/{name}")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path) -> Any:
    run_dir = tmp_path_factory.mktemp("wandb") / "cls"
    predictions = classifier_predictions()
    return run_dir, predictions, logged(run_dir, predictions, demo_shards)


def test_every_class_has_its_line_and_its_curve(classifier: Any) -> None:
    run_dir, predictions, metrics = classifier
    (row,) = read_history(run_dir)
    assert row["global_step"] == 7
    rows = media(run_dir, row["val/classes/path"])
    assert rows["columns"] == ["class", "images", "AP", "F1"]
    for column, name in enumerate(CLASSES):
        images = int(predictions.labels[:, column].sum())
        assert rows["data"][column] == [name, images, metrics[f"ap/{name}"], metrics[f"f1/{name}"]]
    points = media(run_dir, row["val/precision_recall_table/path"])
    assert points["columns"] == ["class", "recall", "precision"]
    assert {point[0] for point in points["data"]} == set(CLASSES)
    assert all(0 <= recall <= 1 and 0 < precision <= 1 for _, recall, precision in points["data"])


def test_images_carry_their_boxes_beside_the_pixels(tmp_path: Path, demo_shards: Path) -> None:
    predictions = rpn_predictions()
    logged(tmp_path / "rpn", predictions, demo_shards)
    (row,) = read_history(tmp_path / "rpn")
    assert row["val/worst_images/count"] == 8
    groups = row["val/worst_images/all_boxes"][0]
    proposals = media(tmp_path / "rpn", groups["predictions"]["path"])["box_data"]
    assert len(proposals) == 20
    assert proposals[0]["scores"]["score"] == pytest.approx(0.99)
    assert proposals[0]["box_caption"] == "proposal 0.99"
    index = predictions.best_first()[-1]
    first = predictions.proposals[predictions.proposal_image == index][0]
    position = [proposals[0]["position"][side] for side in ("minX", "minY", "maxX", "maxY")]
    assert position == pytest.approx(first.tolist())
    (truth,) = {
        box["box_caption"]
        for box in media(tmp_path / "rpn", groups["ground_truth"]["path"])["box_data"]
    }
    assert truth == CLASSES[0]


def test_shards_come_in_and_the_model_goes_out(classifier: Any, demo_shards: Path) -> None:
    run_dir, _, metrics = classifier
    (path,) = run_dir.rglob("*.wandb")
    records = read_records(path)
    found = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    # Tables are artifacts too, of a type of their own.
    data, model = (one for one in found if one.type in ("dataset", "model"))
    assert (data.type, data.name, data.use_after_commit) == ("dataset", "demo", True)
    contents = {entry.path: entry for entry in data.manifest.contents}
    assert contents["train-000000.tar"].ref == (demo_shards / "train-000000.tar").as_uri()
    copy = Path(contents["manifest.json"].local_path)
    assert copy.read_bytes() == (demo_shards / "manifest.json").read_bytes()
    assert (model.type, model.name, "best" in model.aliases) == ("model", "cls-model", True)
    (weights,) = model.manifest.contents
    assert weights.ref == (run_dir / FINAL_WEIGHTS).as_uri()
    assert json.loads(model.metadata)["mAP"] == metrics["mAP"]
    summary = {
        item.key or "/".join(item.nested_key): item.value_json
        for r in records
        if r.WhichOneof("record_type") == "summary"
        for item in r.summary.update
    }
    assert json.loads(summary["best/mAP"]) == metrics["mAP"]
    updates = [r.config.update for r in records if r.WhichOneof("record_type") == "config"]
    config = {item.key: item.value_json for update in updates for item in update}
    assert json.loads(config["dataset"])["name"] == "demo"
