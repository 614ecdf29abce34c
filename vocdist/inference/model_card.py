"""What a model's user must know: pre- and post-processing in words, and a README about it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config.file import plain_config
from vocdist.inference.trained import Trained
from vocdist.training.views import FRAME_ASPECT, FRAME_MULTIPLE

_SCALING = "(bilinear, antialiased, in uint8; halves are rounded to even)"
# Figures worth a line, where the run has them.
_FIGURES = ("mAP", "macro_f1", "sample_f1", "recall50@50", "recall50@200", "AR@200", "samples")


def metadata_of(trained: Trained) -> dict[str, str]:
    """What every exported file carries: texts, and JSON of what programs read."""
    metadata = {
        "task": trained.config.task,
        "classes": json.dumps(trained.classes),
        "config": json.dumps(portable_settings(trained.config)),
        "preprocessing": preprocessing(trained.config),
        "postprocessing": postprocessing(trained.config),
    }
    if trained.thresholds:
        numbers = [trained.thresholds[name] for name in trained.classes]
        metadata["thresholds"] = json.dumps(numbers)
    return metadata


def portable_settings(config: TaskConfig) -> dict[str, Any]:
    """The settings that made a model, without those of the machine: no paths, no tracking."""
    values = plain_config(config)
    data = {"short_side": values["data"].get("short_side")}
    model = {
        key: Path(value).name if key in ("classifier", "weights") else value
        for key, value in values["model"].items()
    }
    local = ("run", "data", "runtime", "tracking")
    kept = {key: value for key, value in values.items() if key not in local}
    return {**kept, "data": {k: v for k, v in data.items() if v is not None}, "model": model}


def preprocessing(config: TaskConfig) -> str:
    """From a file to the graph's input; each step as `EvaluationView` takes it."""
    steps = ["Decode to RGB uint8 in stored pixels, without EXIF rotation."]
    if config.data.short_side:
        steps.append(
            f"Where the short side is longer than {config.data.short_side} pixels, scale both "
            f"sides by {config.data.short_side} / short side, rounded {_SCALING}."
        )
    steps += _rpn_input(config) if isinstance(config, RpnConfig) else _classifier_input(config)
    return " ".join([*steps, "Pass uint8 (B, 3, H, W); normalising is inside the graph."])


def postprocessing(config: TaskConfig) -> str:
    """From the graph's outputs to results."""
    if isinstance(config, ClassifierConfig):
        mirrored = ", of an image and its mirror image together" if config.input.eval_flip else ""
        return (
            f"scores are probabilities of presence{mirrored}, in the order of classes; one is "
            f"present from its threshold on."
        )
    rule, model = config.proposals, config.model
    text = "boxes are xyxy, in pixels of the input. "
    each = ""
    if len(model.strides) > 1:
        anchors = [len(scales) * len(model.ratios) for scales in model.scales]
        levels = zip(model.strides, anchors, strict=True)
        each = "of each level "
        text += (
            "They come by levels, of ceil(H / stride) * ceil(W / stride) * anchors each (stride, "
            f"anchors: {'; '.join(f'{stride}, {count}' for stride, count in levels)}). "
        )
    low = "of 0" if rule.score_threshold is None else f"below {rule.score_threshold:g}"
    return (
        f"{text}Take the {rule.pre_nms_top_k} best {each}by score, drop those with a side below "
        f"{rule.min_size:g} pixels or a score {low}, apply NMS at IoU {rule.nms_threshold:g}"
        f"{' to each level' if each else ''}, keep as many of the best as wanted, and multiply by "
        f"stored size / image_sizes."
    )


def model_card(trained: Trained, results: Mapping[str, float] | None, files: Sequence[str]) -> str:
    """The README.md of an exported model."""
    is_classifier = isinstance(trained.config, ClassifierConfig)
    what = "multi-label classifier" if is_classifier else "Region Proposal Network"
    name, use = (
        ("Classifier", 'predict("photo.jpg")[0].present')
        if is_classifier
        else ("RegionProposalNetwork", 'propose("photo.jpg", count=50)[0].boxes')
    )
    tags = ["image-classification", "multi-label"] if is_classifier else ["object-detection", "rpn"]
    front = yaml.safe_dump({"library_name": "vocdist", "tags": tags}, sort_keys=False)
    figures = {key: results[key] for key in _FIGURES if results and key in results}
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in figures.items())
    measured = f"| figure | value |\n|---|---|\n{rows}\n" if rows else "Not measured.\n"
    by_class = sorted((k[3:], v) for k, v in (results or {}).items() if k.startswith("ap/"))
    if by_class:
        measured += "\nAP: " + ", ".join(f"{c} {v:.3f}" for c, v in by_class) + ".\n"
    settings = yaml.safe_dump(portable_settings(trained.config), sort_keys=False)
    return f"""---
{front}---

# {what}, {trained.config.model.backbone}

```python
from vocdist import {name}

model = {name}.load("model.safetensors")
print(model.{use})
```

Files: {", ".join(files)}.

## Classes

{", ".join(trained.classes)}{"" if is_classifier else " (of the objects it was trained on)"}.

## Figures

On the val split it was trained beside:

{measured}
## For other runtimes

ONNX and torch.export files take any batch size, height and width.

Before: {preprocessing(trained.config)}

After: {postprocessing(trained.config)}

## Settings

```yaml
{settings}```
"""


def _rpn_input(config: RpnConfig) -> list[str]:
    box = config.input
    if box.snap:
        fitted = _fitted(box.short_side, box.long_side, box.pad_multiple)
        return [fitted, "There is no padding: image_sizes are (height, width) of the input."]
    return [
        _fitted(box.short_side, box.long_side, 1),
        f"Pad with zeros at the right and the bottom to multiples of {box.pad_multiple}.",
        "image_sizes are (height, width) before the padding.",
    ]


def _classifier_input(config: ClassifierConfig) -> list[str]:
    view = config.input
    side = view.eval_size or view.size
    if view.eval_view == "frame":
        return [_fitted(side, FRAME_ASPECT * side, FRAME_MULTIPLE)]
    squeezed = f"Scale it to {side} x {side} pixels {_SCALING}."
    if view.eval_view == "squeezed":
        return [squeezed]
    return [
        f"Cut the square whose side is {view.eval_crop!r} * short side, rounded, and whose top "
        f"left is half of what is left over, rounded down.",
        squeezed,
    ]


def _fitted(short_side: int, long_side: int, multiple: int) -> str:
    """The words for `fitted_size`."""
    unit = f"multiple of {multiple} pixels, at least to {multiple}" if multiple > 1 else "pixel"
    return (
        f"Scale it to the stored sides times min({short_side} / short side, {long_side} / long "
        f"side), each rounded to the nearest {unit} {_SCALING}."
    )
