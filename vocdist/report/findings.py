"""What stands out in a run: findings in words, the best and the worst images."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import numpy as np
from markupsafe import Markup
from PIL import Image

from vocdist.metrics.tables import measured_classes
from vocdist.report.classifier_view import THRESHOLD, ClassifierView
from vocdist.report.rpn_view import FITTING, RpnView
from vocdist.report.run_data import RunData, points
from vocdist.runs.predictions import (
    RANKED_BY,
    ClassifierPredictions,
    Example,
    Predictions,
    RpnPredictions,
    shown_images,
)
from vocdist.tasks.task import task_class

# Waiting for data is worth a word from this share of the time on.
WAITING = 0.15


def findings(run: RunData, view: ClassifierView | RpnView | None) -> list[str]:
    """Sentences, the most general first."""
    found = [*_of_training(run)]
    if isinstance(view, ClassifierView):
        found += _of_classifier(view)
    elif isinstance(view, RpnView):
        found += _of_rpn(run, view)
    return found


def _of_training(run: RunData) -> Iterator[str]:
    decides = task_class(run.task).best_metric
    epochs, values = points(run.rows, f"val/{decides}")
    classes = measured_classes(decides, run.metrics)
    figure = f"{decides} ({classes})" if classes else decides
    if len(values) > 2:
        best = int(values.argmax())
        # Of the last epoch's gain over the best before it.
        gain = values[-1] / max(1e-9, values[:-1].max()) - 1
        if best == len(values) - 1 and gain > 0.01:
            yield (
                f"{figure} still rose by {gain:.0%} in the last epoch: more epochs may bring more."
            )
        elif best < len(values) - 2 and values[-1] < 0.98 * values[best]:
            yield (
                f"{figure} was highest after epoch {epochs[best]:.0f} "
                f"({values[best]:.3f}) and is {values[-1]:.3f} after epoch {epochs[-1]:.0f}: "
                f"the later epochs did harm."
            )
    epochs, losses = points(run.rows, "val/loss")
    if len(losses) > 2 and losses[-1] > 1.05 * losses.min():
        yield (
            f"The val loss was lowest after epoch {epochs[int(losses.argmin())]:.0f} "
            f"({losses.min():.3f}) and rose to {losses[-1]:.3f}: a sign of overfitting."
        )
    _, waits = points(run.rows, "perf/data_wait")
    # The first rows hold the start of the loader processes.
    wait = float(np.median(waits)) if len(waits) else 0.0
    if wait > WAITING:
        remedy = (
            "name a features.folder on a faster disk, or run where the cached features fit into "
            "memory beside the run."
            if run.reads_features
            else "raise data.num_workers where cores are free, or make smaller images with "
            "max_side in make_shards.py."
        )
        yield f"{wait:.0%} of the time went into waiting for data: {remedy}"


def _of_classifier(view: ClassifierView) -> Iterator[str]:
    rated = [row for row in view.classes if row.ap is not None]
    if len(rated) > 5:
        weakest = ", ".join(f"{row.name} ({row.ap:.2f})" for row in rated[:-4:-1])
        yield f"Hardest classes by AP: {weakest}."
    for predicted, present, images, total in view.confusions.most(1):
        yield (
            f"Most frequent false alarm: {predicted} where {present} is present, "
            f"{images} of {predicted}'s {total} false ones."
        )
    if view.own_mean_f1 is not None:
        yield (
            f"The run's own thresholds, chosen on the train split, give a macro-F1 of "
            f"{view.own_mean_f1:.3f}, where one half has {view.mean_f1:.3f}."
        )
    elif view.best_mean_f1 > view.mean_f1 + 0.01:
        yield (
            f"A threshold for each class would lift macro-F1 from {view.mean_f1:.3f} to "
            f"{view.best_mean_f1:.3f}, if it were chosen on these very images: an upper bound."
        )


def _of_rpn(run: RunData, view: RpnView) -> Iterator[str]:
    recall, grid = (run.metrics.get(f"recall50@200{key}") for key in ("", "/grid"))
    if recall is not None and grid is not None and recall <= grid:
        yield (
            f"Recall of 200 proposals ({recall:.3f}) is not above that of a uniform grid of as "
            f"many boxes ({grid:.3f})."
        )
    if view.fitting is not None and view.fitting < 0.9:
        yield (
            f"{1 - view.fitting:.0%} of the train split's boxes have a shape that no anchor "
            f"reaches at IoU {FITTING}: see the anchors, and model.scales and model.ratios."
        )
    sizes = [row for row in view.sizes if row.boxes >= 20 and row.name[0].isdigit()]
    if len(sizes) > 1:
        low = min(sizes, key=lambda row: row.recall)
        high = max(sizes, key=lambda row: row.recall)
        if low.recall < 0.8 * high.recall:
            yield (
                f"Objects of {low.name} pixels are found least: recall {low.recall:.2f}, against "
                f"{high.recall:.2f} of those of {high.name}."
            )


# Scores listed under a classifier's image; proposals drawn on an RPN's, and those with a score.
LISTED, DRAWN, NUMBERED = 5, 10, 3
# An object counts as found from this IoU on.
FOUND = 0.5


@dataclass(frozen=True)
class Tag:
    """A class under an image: its score, and `hit`, `false`, `missed` or `quiet`."""

    name: str
    score: float
    verdict: str


@dataclass(frozen=True)
class Shot:
    """One image: its key, picture, the figure that ranks it, and what is said below."""

    key: str
    svg: Markup
    figure: str
    value: float
    tags: Sequence[Tag] = ()
    words: str = ""


def best_and_worst(
    predictions: Predictions, examples: Sequence[Example]
) -> tuple[list[Shot], list[Shot]]:
    """The images at both ends of the ranking, as far as examples of them are kept."""
    by_index = {example.index: example for example in examples}
    best, worst = (
        [_shot(predictions, by_index[index]) for index in indices if index in by_index]
        for indices in shown_images(predictions)
    )
    return best, worst


def _shot(predictions: Predictions, example: Example) -> Shot:
    if isinstance(predictions, ClassifierPredictions):
        return _classified(predictions, example)
    return _proposed(predictions, example)


def _classified(predictions: ClassifierPredictions, example: Example) -> Shot:
    i = example.index
    scores, labels = predictions.scores[i], predictions.labels[i]
    top = np.argsort(-scores, kind="stable")[:LISTED].tolist()
    # What is there is listed even where its score is low.
    listed = top + [c for c in np.flatnonzero(labels).tolist() if c not in top]
    tags = [
        Tag(predictions.classes[c], float(scores[c]), _verdict(scores[c], bool(labels[c])))
        for c in listed
    ]
    names = [predictions.classes[c] for c in example.class_ids]
    svg = _picture(
        example, [("gt", box, name) for box, name in zip(example.boxes, names, strict=True)]
    )
    return Shot(predictions.keys[i], svg, "loss", float(predictions.losses[i]), tags)


def _verdict(score: float, present: bool) -> str:
    if score >= THRESHOLD:
        return "hit" if present else "false"
    return "missed" if present else "quiet"


def _proposed(predictions: RpnPredictions, example: Example) -> Shot:
    own = predictions.proposal_image == example.index
    proposals, scores = predictions.proposals[own][:DRAWN], predictions.scores[own][:DRAWN]
    covered = predictions.at(RANKED_BY)[predictions.box_image == example.index]
    drawn = [
        ("proposal", box, f"{score:.2f}" if rank < NUMBERED else "")
        for rank, (box, score) in enumerate(zip(proposals, scores, strict=True))
    ]
    for box, class_id, iou in zip(example.boxes, example.class_ids, covered, strict=True):
        kind = "gt" if iou >= FOUND else "gt lost"
        drawn.append((kind, box, f"{predictions.classes[class_id]} {iou:.2f}"))
    found = int((covered >= FOUND).sum())
    return Shot(
        key=predictions.keys[example.index],
        svg=_picture(example, drawn),
        figure="AR",
        value=float(predictions.recall_of_images()[example.index]),
        words=f"{found} of {len(covered)} objects found",
    )


def _picture(example: Example, boxes: Sequence[tuple[str, np.ndarray, str]]) -> Markup:
    with Image.open(BytesIO(example.jpeg)) as image:
        width, height = image.size
    data = base64.b64encode(example.jpeg).decode()
    parts = [f'<image href="data:image/jpeg;base64,{data}" width="{width}" height="{height}"/>']
    labels = []
    for kind, box, text in boxes:
        x1, y1, x2, y2 = (box * (width, height, width, height)).tolist()
        parts.append(
            f'<rect class="{kind}" x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" '
            f'height="{y2 - y1:.1f}"/>'
        )
        if text:
            # Scores at the bottom, where the names of objects do not stand.
            baseline = y2 - 4 if kind == "proposal" else max(y1, 0) + 12
            labels.append(
                f'<text class="{kind}" x="{min(x1, width - 40) + 3:.1f}" y="{baseline:.1f}">'
                f"{escape(text)}</text>"
            )
    # Names after all boxes, so that no line crosses one.
    parts += labels
    return Markup(f'<svg class="shot" viewBox="0 0 {width} {height}">{"".join(parts)}</svg>')
