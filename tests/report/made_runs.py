"""Runs made up without any training, whose figures are known."""

import io
from typing import Any

import numpy as np
from PIL import Image

from vocdist.metrics.classification import multilabel_metrics, prior_map
from vocdist.metrics.proposals import COUNTS, proposal_recall
from vocdist.report.run_data import RunData
from vocdist.runs.predictions import (
    ClassifierPredictions,
    Example,
    Predictions,
    RpnPredictions,
    shown_images,
)

CLASSES = ["aeroplane", "bird", "cat", "dog", "person"]
IMAGES = 60
EPOCHS = 3


def classifier_predictions(classes: list[str] = CLASSES, seed: int = 0) -> ClassifierPredictions:
    rng = np.random.default_rng(seed)
    labels = (rng.random((IMAGES, len(classes))) < 0.3).astype(np.int8)
    scores = np.clip(0.35 * labels + 0.65 * rng.random(labels.shape), 0, 1).astype(np.float32)
    return ClassifierPredictions(
        classes=classes,
        keys=[f"key_{i:03d}" for i in range(IMAGES)],
        scores=scores,
        labels=labels,
        losses=np.abs(scores - labels).mean(axis=1),
    )


def rpn_predictions(seed: int = 0) -> RpnPredictions:
    rng = np.random.default_rng(seed)
    boxes, proposals = rng.integers(1, 4, IMAGES), 20
    corner = rng.random((IMAGES * proposals, 2)) * 0.5
    side = 0.1 + rng.random(corner.shape) * 0.4
    counts = np.array(sorted({1, 5, 20, *COUNTS}))
    total = int(boxes.sum())
    return RpnPredictions(
        classes=CLASSES,
        keys=[f"key_{i:03d}" for i in range(IMAGES)],
        losses=rng.random(IMAGES).astype(np.float32),
        counts=counts,
        best=np.sort(rng.random((total, len(counts))), axis=1).astype(np.float32),
        box_image=np.repeat(np.arange(IMAGES), boxes),
        areas=np.exp(rng.uniform(4, 11, total)).astype(np.float32),
        proposals=np.concatenate([corner, corner + side], axis=1).astype(np.float32),
        scores=np.tile(np.linspace(0.99, 0.2, proposals), IMAGES).astype(np.float32),
        proposal_image=np.repeat(np.arange(IMAGES), proposals),
        anchors=np.array([[32, 32], [64, 64], [128, 64]], dtype=np.float32),
        train_sizes=np.exp(rng.uniform(3, 6, (300, 2))).astype(np.float32),
    )


def examples(predictions: Predictions) -> list[Example]:
    best, worst = shown_images(predictions)
    made = []
    for index in (*best, *worst):
        encoded = io.BytesIO()
        Image.new("RGB", (40, 30), (index, 100, 100)).save(encoded, "JPEG")
        objects = 1
        if isinstance(predictions, RpnPredictions):
            objects = int((predictions.box_image == index).sum())
        box = np.array([[0.1, 0.2, 0.6, 0.9]], dtype=np.float32)
        made.append(
            Example(index, encoded.getvalue(), np.repeat(box, objects, 0), np.zeros(objects, int))
        )
    return made


def made_run(
    predictions: Predictions | None, *, name: str = "made", finished: bool = True, **config: Any
) -> RunData:
    task = "rpn" if isinstance(predictions, RpnPredictions) else "classifier"
    metrics = _metrics(predictions)
    return RunData(
        name=name,
        config={"task": task, "train.epochs": EPOCHS, "data.shards": "shards/made", **config},
        starts=[{"python": "3.11", "git": None, "packages": {"torch": "2"}}],
        rows=[] if predictions is None else _rows(metrics),
        results={**metrics, "epoch": float(EPOCHS)} if finished else None,
        predictions=predictions,
        examples=examples(predictions) if predictions else [],
    )


def _metrics(predictions: Predictions | None) -> dict[str, float]:
    if isinstance(predictions, ClassifierPredictions):
        return {
            **multilabel_metrics(predictions.scores, predictions.labels, predictions.classes),
            "mAP_prior": prior_map(predictions.labels),
            "loss": float(predictions.losses.mean()),
        }
    if predictions is None:
        return {}
    import torch

    best = torch.from_numpy(np.stack([predictions.at(count) for count in COUNTS], axis=1))
    baselines = {f"recall50@{count}/{name}": 0.1 for count in COUNTS for name in ("grid", "random")}
    loss = float(predictions.losses.mean())
    return {**proposal_recall(best), **baselines, "loss": loss, "samples": float(IMAGES)}


def _rows(metrics: dict[str, float]) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(1, 10 * EPOCHS + 1):
        row = {"global_step": step, "epoch": step / 10, "train/loss": 1 / step, "train/lr": 0.1}
        rows.append({**row, "perf/images_per_s": 50.0 + step, "perf/data_wait": 0.4})
        if step % 10 == 0:
            # Worse before, so that the last epoch is the best.
            share = step / (10 * EPOCHS)
            values = {f"val/{key}": value * share for key, value in metrics.items()}
            rows.append({"global_step": step, "epoch": step // 10, **values})
    return rows
