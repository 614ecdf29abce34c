"""What a model's user must know: pre- and post-processing in words, and a README about it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config_file import plain_config
from vocdist.inference.trained import Trained
from vocdist.training.views import FRAME_MULTIPLE

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
    """From a file to the graph's input."""
    first = "Decode to RGB uint8 in stored pixels, without EXIF rotation. "
    last = "Pass uint8 (B, 3, H, W); normalising is inside the graph."
    if isinstance(config, RpnConfig):
        box = config.input
        sides = (
            f"Scale so that the short side is {box.short_side} and the long side at most "
            f"{box.long_side} pixels (bilinear, antialiased)"
        )
        if box.snap:
            fit = f", each rounded to the nearest multiple of {box.pad_multiple}."
            fit += " There is no padding: image_sizes are (height, width) of the input."
        else:
            fit = (
                f". Pad with zeros at the right and the bottom to multiples of {box.pad_multiple}."
            )
            fit += " image_sizes are (height, width) before the padding."
        return f"{first}{sides}{fit} {last}"
    return f"{first}{_classifier_view(config)} {last}"


def postprocessing(config: TaskConfig) -> str:
    """From the graph's outputs to results."""
    if isinstance(config, ClassifierConfig):
        return (
            "scores are probabilities of presence, in the order of classes; one is present from "
            "its threshold on."
        )
    rule, levels = config.proposals, len(config.model.strides)
    each = "of each level " if levels > 1 else ""
    threshold = 0.0 if rule.score_threshold is None else rule.score_threshold
    return (
        f"boxes are xyxy, in pixels of the input. Take the {rule.pre_nms_top_k} best {each}by "
        f"score, drop those with a side below {rule.min_size:g} pixels or a score of {threshold:g} "
        f"or less, apply NMS at IoU {rule.nms_threshold:g}{' to each level' if each else ''}, keep "
        f"as many of the best as wanted, and multiply by stored / scaled size."
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


def _classifier_view(config: ClassifierConfig) -> str:
    view = config.input
    side = view.eval_size or view.size
    scale = f"scale it to {side} x {side} pixels (bilinear, antialiased)."
    if view.eval_view == "frame":
        scale = (
            f"scale it to a short side of {side} pixels (bilinear, antialiased), each rounded "
            f"to the nearest multiple of {FRAME_MULTIPLE}."
        )
    mirrored = " Average the logits of this and of its mirror image." if view.eval_flip else ""
    if view.eval_view != "centre":
        return f"Take the whole image and {scale}{mirrored}"
    return f"Cut the centred square of {view.eval_crop:.4g} of the short side and {scale}{mirrored}"
