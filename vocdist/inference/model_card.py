"""What a model's user must know: pre- and post-processing in words, and a README about it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vocdist.config import TaskConfig
from vocdist.config.file import plain_config
from vocdist.data.geometry import SCALING_WORDS
from vocdist.inference.trained import Trained

# Figures worth a line, where the run has them.
_FIGURES = ("mAP", "macro_f1", "sample_f1", "recall50@50", "recall50@200", "AR@200", "samples")


def metadata_of(trained: Trained) -> dict[str, str]:
    """What every exported file carries: texts, and JSON of what programs read."""
    return {
        "task": trained.config.task,
        "classes": json.dumps(trained.classes),
        "config": json.dumps(portable_settings(trained.config)),
        "preprocessing": preprocessing(trained),
        "postprocessing": trained.task.card().postprocessing,
        **trained.task.metadata(),
    }


def portable_settings(config: TaskConfig) -> dict[str, Any]:
    """The settings that made a model, without those of the machine: no paths, no tracking."""
    values = plain_config(config)
    data = {"short_side": values["data"].get("short_side")}
    model = {
        key: Path(value).name if key in ("classifier", "weights") else value
        for key, value in values.get("model", {}).items()
    }
    local = ("run", "data", "runtime", "tracking")
    kept = {key: value for key, value in values.items() if key not in local}
    return {**kept, "data": {k: v for k, v in data.items() if v is not None}, "model": model}


def preprocessing(trained: Trained) -> str:
    """From a file to the graph's input; each step as `EvaluationView` takes it."""
    steps = ["Decode to RGB uint8 in stored pixels, without EXIF rotation."]
    short_side = trained.config.data.short_side
    if short_side:
        steps.append(
            f"Where the short side is longer than {short_side} pixels, scale both sides by "
            f"{short_side} / short side, rounded {SCALING_WORDS}."
        )
    steps += trained.task.card().preprocessing
    return " ".join([*steps, "Pass uint8 (B, 3, H, W); normalising is inside the graph."])


def model_card(trained: Trained, results: Mapping[str, float] | None, files: Sequence[str]) -> str:
    """The README.md of an exported model."""
    card, config = trained.task.card(), plain_config(trained.config)
    backbone = config.get("model", {}).get("backbone", "")
    front = yaml.safe_dump({"library_name": "vocdist", "tags": list(card.tags)}, sort_keys=False)
    figures = {key: results[key] for key in _FIGURES if results and key in results}
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in figures.items())
    measured = f"| figure | value |\n|---|---|\n{rows}\n" if rows else "Not measured.\n"
    by_class = sorted((k[3:], v) for k, v in (results or {}).items() if k.startswith("ap/"))
    if by_class:
        measured += "\nAP: " + ", ".join(f"{c} {v:.3f}" for c, v in by_class) + ".\n"
    settings = yaml.safe_dump(portable_settings(trained.config), sort_keys=False)
    return f"""---
{front}---

# {", ".join(filter(None, (card.title, backbone)))}

```python
{card.usage}
```

Files: {", ".join(files)}.

## Classes

{", ".join(trained.classes)}{"" if card.knows_classes else " (of the objects it was trained on)"}.

## Figures

On the val split it was trained beside:

{measured}
## For other runtimes

ONNX and torch.export files take any batch size, height and width.

Before: {preprocessing(trained)}

After: {card.postprocessing}

## Settings

```yaml
{settings}```
"""
