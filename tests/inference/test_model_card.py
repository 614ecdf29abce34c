"""Who has nothing but the model card's text and the graph gets the package's own results."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torchvision.ops import nms

from vocdist import Classifier, RegionProposalNetwork
from vocdist.inference.export import export_graph, preprocessing
from vocdist.inference.trained import Trained, load_trained
from vocdist.runs.checkpoint import load_model
from vocdist.tasks.rpn import ProposalModel
from vocdist.tasks.task import evaluation_view, task_class

# One of three short sides and more, and one upright with odd sides.
SIZES = ((47, 171), (121, 83))


def with_settings(
    run: Path, short_side: int | None, levels: dict[str, object] | None = None, **changes: object
) -> Trained:
    """A run's model as if trained with other settings; for other levels its head is untrained."""
    trained = load_trained(run, "cpu")
    config = replace(
        trained.config,
        data=replace(trained.config.data, short_side=short_side),
        input=replace(trained.config.input, **changes),
        model=replace(trained.config.model, **levels or {}),
    )
    task = task_class(config.task).build(config, trained.classes, None, pretrained=False)
    if levels is None:
        load_model(task.model, trained.weights)
    else:
        assert isinstance(task.model, ProposalModel)
        backbone = {
            name: value
            for name, value in load_file(trained.weights).items()
            if name.startswith("backbone.")
        }
        assert backbone and not task.model.load_state_dict(backbone, strict=False).unexpected_keys
        # Far enough apart that rounding changes no order.
        task.model.rpn.head.objectness.weight.data *= 100
    task.model.eval().requires_grad_(False)
    view = evaluation_view(config, len(trained.classes))
    return replace(trained, config=config, task=task, view=view)


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of a pattern that the text must hold."""
    found = re.search(pattern, text)
    assert found, text
    return [float(group) for group in found.groups()]


def scaled(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image, (height, width), mode="bilinear", antialias=True)


def prepared(text: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """What the text makes of (1, 3, H, W) uint8: the input, and image_sizes."""
    stored = image.shape[2:]
    if "Where the short side" in text:
        longer, side = numbers(r"is longer than (\d+) pixels, .* by (\d+) / short side", text)
        if min(stored) > longer:
            image = scaled(image, *(round(s * side / min(stored)) for s in stored))
    if "Cut the square" in text:
        (share,) = numbers(r"side is ([\d.]+) \* short side", text)
        height, width = image.shape[2:]
        side = round(share * min(height, width))
        top, left = (height - side) // 2, (width - side) // 2
        image = image[:, :, top : top + side, left : left + side]
    if "times min(" in text:
        short, long = numbers(r"min\((\d+) / short side, (\d+) / long side\)", text)
        sides = tuple(map(float, stored))
        if "Of the (height, width)" in text:
            shapes = [float(aspect) for aspect in re.findall(r"\(1, ([\d.]+)\)", text)]
            own = math.log(stored[1] / stored[0])
            sides = 1.0, min(shapes, key=lambda aspect: abs(math.log(aspect) - own))
        factor = min(short / min(sides), long / max(sides))
        (unit,) = numbers(r"nearest multiple of (\d+)", text) if "nearest mul" in text else (1,)
        image = scaled(image, *(int(max(1, round(s * factor / unit)) * unit) for s in sides))
    else:
        image = scaled(image, *map(int, numbers(r"Scale it to (\d+) x (\d+) pixels", text)))
    sizes = torch.tensor([image.shape[2:]])
    if "Pad with zeros" in text:
        (unit,) = numbers(r"to multiples of (\d+)", text)
        image = F.pad(image, (0, int(-image.shape[3] % unit), 0, int(-image.shape[2] % unit)))
    return image, sizes


def read_boxes(text: str, boxes: Tensor, scores: Tensor, hw: tuple[int, int]) -> list[Tensor]:
    """What the text makes of an image's boxes (A, 4) and scores (A,): those that are left."""
    best, small, overlap = numbers(
        r"the (\d+) best .* below (\S+) pixels or a score of 0, apply NMS at IoU ([\d.]+)", text
    )
    counts = [len(boxes)]
    if "by levels" in text:
        pairs = re.findall(r"(\d+), (\d+)[;)]", text)
        counts = [-(-hw[0] // int(s)) * -(-hw[1] // int(s)) * int(k) for s, k in pairs]
    kept_boxes, kept_scores = [], []
    for level, values in zip(boxes.split(counts), scores.split(counts), strict=True):
        order = values.argsort(descending=True)[: int(best)]
        large = ((level[order, 2:] - level[order, :2]) >= small).all(dim=1) & (values[order] > 0)
        order = order[large]
        order = order[nms(level[order], values[order], overlap)]
        kept_boxes.append(level[order])
        kept_scores.append(values[order])
    return [torch.cat(kept_boxes), torch.cat(kept_scores)]


@pytest.mark.parametrize(
    ("short_side", "changes"),
    [
        (None, {"eval_view": "centre"}),
        (40, {"eval_view": "centre", "eval_flip": True, "eval_crop": 0.9}),
        (60, {"eval_view": "frame", "eval_size": 64, "eval_flip": True}),
        (None, {"eval_view": "frame", "eval_size": 64, "eval_aspects": (4 / 3, 0.75)}),
        (None, {"eval_view": "squeezed", "eval_size": 50}),
    ],
)
def test_a_classifiers_card_leads_to_what_predict_says(
    classifier_run: Path, short_side: int | None, changes: dict[str, object]
) -> None:
    trained = with_settings(classifier_run, short_side, **changes)
    ours, graph = Classifier(trained), export_graph(trained)
    for height, width in SIZES:
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = ours.predict(image)[0].scores
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        inputs, _ = prepared(preprocessing(trained), pixels)
        with torch.inference_mode():
            scores = graph(inputs)[0].tolist()
        assert dict(zip(ours.classes, scores, strict=True)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("short_side", "shape", "levels"),
    [
        (None, {"snap": True}, None),
        (None, {"aspects": (1.5, 1.0, 2 / 3)}, None),
        (45, {"snap": False}, None),
        (None, {"snap": False}, {"strides": (16, 32), "scales": ((20.0, 36.0), (48.0, 64.0))}),
    ],
)
def test_an_rpns_card_leads_to_what_propose_says(
    rpn_run: Path,
    short_side: int | None,
    shape: dict[str, object],
    levels: dict[str, object] | None,
) -> None:
    trained = with_settings(rpn_run, short_side, levels, **shape)
    ours = RegionProposalNetwork(trained)
    for height, width in SIZES:
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = ours.propose(image)[0]
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        inputs, sizes = prepared(preprocessing(trained), pixels)
        with torch.inference_mode():
            boxes, scores = export_graph(trained)(inputs, sizes)
        hw = inputs.shape[2], inputs.shape[3]
        text = trained.task.card().postprocessing
        boxes, scores = read_boxes(text, boxes[0], scores[0], hw)
        boxes = boxes * (torch.tensor([height, width]) / sizes[0]).flip(0).repeat(2)
        # Scores of a hardly trained model nearly tie, so boxes may come in another order.
        theirs = torch.from_numpy(expected.boxes)
        assert len(theirs) == min(len(boxes), 300) > 5
        assert scores.sort(descending=True).values[:300].numpy() == pytest.approx(
            expected.scores, abs=1e-4
        )
        assert torch.cdist(theirs, boxes, p=torch.inf).min(dim=1).values.max() < 0.01
