"""Single images with what was there and what was found, as SVG over the picture."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

import numpy as np
from markupsafe import Markup
from PIL import Image

from vocdist.report.classifier_view import THRESHOLD
from vocdist.report.predictions import (
    RANKED_BY,
    ClassifierPredictions,
    Example,
    Predictions,
    RpnPredictions,
    shown_images,
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
