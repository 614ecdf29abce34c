"""What W&B gets of a run besides its rows: the data set it read, its results, its model."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from vocdist.metrics.classification import precision_recall
from vocdist.runs.folder import FINAL_WEIGHTS
from vocdist.runs.predictions import (
    PREDICTIONS,
    ClassifierPredictions,
    Example,
    Predictions,
    load_predictions,
    shown_images,
)
from vocdist.runs.wandb import (
    Overlay,
    Run,
    data_set,
    image_with_boxes,
    log_model,
    note_config,
    precision_recall_chart,
    table,
    use,
)
from vocdist.shards.format import MANIFEST_NAME, save_manifest
from vocdist.shards.publish import data_set_entry
from vocdist.shards.reader import ShardReader

# Points of a class's curve in W&B: a table there holds 10,000 rows.
CURVE_POINTS = 101
# Scores in the caption of a classifier's image.
CAPTIONED = 3


def note_data_set(run: Run, reader: ShardReader) -> None:
    """Make the shards an input of the run."""
    entry = data_set_entry(reader.manifest, reader.folder)
    with TemporaryDirectory() as folder:
        # Remote shards have no manifest on this machine.
        save_manifest(reader.manifest, Path(folder))
        artifact = data_set(
            reader.manifest.name,
            manifest=Path(folder) / MANIFEST_NAME,
            references=entry.references,
            metadata=entry.metadata,
        )
    use(run, artifact)
    identity = {"name": reader.manifest.name, "manifest_sha256": reader.manifest_sha256}
    note_config(run, {"dataset": identity})


def note_best(run: Run, run_dir: Path, metrics: Mapping[str, float]) -> None:
    """Log the best weights' metrics as `best/…`, and the weights."""
    run.summary.update({f"best/{name}": value for name, value in metrics.items()})
    # W&B takes at most 100 facts of an artifact: those of single classes are in the summary.
    totals = {name: value for name, value in metrics.items() if "/" not in name}
    log_model(run, f"{run_dir.resolve().name}-model", run_dir / FINAL_WEIGHTS, totals)


def result_values(run_dir: Path, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Tables, curves and images of `predictions.npz`, by their names in W&B."""
    if not (run_dir / PREDICTIONS).is_file():
        return {}
    predictions, examples = load_predictions(run_dir / PREDICTIONS)
    values: dict[str, Any] = {}
    by_index = {example.index: example for example in examples}
    for name, indices in zip(("best", "worst"), shown_images(predictions), strict=True):
        images = [_image(predictions, by_index[i]) for i in indices if i in by_index]
        if images:
            values[f"val/{name}_images"] = images
    if isinstance(predictions, ClassifierPredictions):
        images_of = predictions.labels.sum(axis=0).tolist()
        values["val/classes"] = table(
            ("class", "images", "AP", "F1"),
            [
                # Without an image neither is defined; F1's key is there all the same, as 0.
                (
                    name,
                    images,
                    metrics.get(f"ap/{name}"),
                    metrics.get(f"f1/{name}") if images else None,
                )
                for name, images in zip(predictions.classes, images_of, strict=True)
            ],
        )
        curve = precision_recall_chart(_curve_points(predictions), "Precision over recall")
        values["val/precision_recall"] = curve
    return values


def _curve_points(predictions: ClassifierPredictions) -> list[tuple[str, float, float]]:
    """(class, recall, precision) at evenly spaced recalls: the best precision from there on."""
    points = []
    recalls = np.linspace(0.0, 1.0, CURVE_POINTS)
    for column, name in enumerate(predictions.classes):
        if not predictions.labels[:, column].any():
            continue
        curve = precision_recall(predictions.scores[:, column], predictions.labels[:, column])
        highest = np.maximum.accumulate(curve.precision[::-1])[::-1]
        at = np.searchsorted(curve.recall, recalls - 1e-9)
        pairs = zip(recalls.tolist(), highest[at].tolist(), strict=True)
        points += [(name, recall, precision) for recall, precision in pairs]
    return points


def _image(predictions: Predictions, example: Example) -> Any:
    classes, index = predictions.classes, example.index
    objects = Overlay(example.boxes, example.class_ids.tolist(), classes)
    if isinstance(predictions, ClassifierPredictions):
        scores = predictions.scores[index]
        top = np.argsort(-scores, kind="stable")[:CAPTIONED].tolist()
        words = ", ".join(f"{classes[i]} {scores[i]:.2f}" for i in top)
        caption = f"{predictions.keys[index]}: {words}"
        return image_with_boxes(example.jpeg, {"ground_truth": objects}, caption)
    own = predictions.proposal_image == index
    boxes = predictions.proposals[own]
    found = Overlay(boxes, [0] * len(boxes), ["proposal"], predictions.scores[own].tolist())
    groups = {"ground_truth": objects, "predictions": found}
    return image_with_boxes(example.jpeg, groups, predictions.keys[index])
