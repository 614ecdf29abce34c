"""A trained model as ONNX and torch.export graphs, with a README of what its user must know."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.export import Dim, ExportedProgram

from vocdist.config import TaskConfig
from vocdist.config.file import plain_config
from vocdist.data.geometry import SCALING_WORDS
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.inference.images import input_batches
from vocdist.inference.trained import Trained
from vocdist.metrics.tables import measured_classes
from vocdist.models.layers import ExportGraph, set_channels_last

# Scores are compared as they are, boxes as a share of the image's longer side.
TOLERANCE = 1e-4
NEEDED = ("onnx", "onnxscript", "onnxruntime")
# Figures worth a line, where the run has them.
_FIGURES = ("mAP", "macro_f1", "sample_f1", "recall50@50", "recall50@200", "AR@200", "samples")


def export_graph(trained: Trained) -> ExportGraph:
    """The graph of a trained model, on the CPU and with NCHW weights, as other runtimes want them.

    Changes the model in place.

    Raises:
        UserError: The task has no graph.
    """
    set_channels_last(trained.task.model.cpu(), False)
    graph = trained.task.graph()
    if graph is None:
        raise UserError(
            f"{trained.weights}: its task ({trained.task.title}) has no graph to export: use "
            f"formats=[safetensors]"
        )
    return graph.eval()


def example_size(trained: Trained) -> tuple[int, int]:
    """(height, width) of the input that a photograph of VOC's usual size becomes."""
    photograph = np.zeros((375, 500, 3), dtype=np.uint8)
    inputs = next(input_batches([photograph], trained.view, batch=1))
    assert inputs.batch is not None
    height, width = inputs.batch.images.shape[2:]
    return height, width


def example_inputs(graph: ExportGraph, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Random images of a shape, and for proposals sizes that leave some padding."""
    generator = torch.Generator().manual_seed(batch + height + width)
    shape = (batch, 3, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if not graph.takes_sizes:
        return (images,)
    return images, torch.tensor([[height - 5, width], [height, width - 9]]).repeat(batch, 1)[:batch]


def export_program(graph: ExportGraph, size: tuple[int, int]) -> ExportedProgram:
    """Trace a graph for any batch and any sizes; the (height, width) given is but an example."""
    inputs = example_inputs(graph, 2, *size)
    sizes = {0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}
    shapes = (sizes, {0: Dim.AUTO})[: len(inputs)]
    return torch.export.export(graph, inputs, dynamic_shapes=shapes, strict=False)


def save_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a `.pt2` file, `metadata.json` inside."""
    # By way of memory, since torch asks for a file name that ends in .pt2.
    buffer = io.BytesIO()
    extra_files = {"metadata.json": json.dumps(dict(metadata), indent=1)}
    torch.export.save(program, buffer, extra_files=extra_files)
    with replaced_when_done(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def save_onnx(
    program: ExportedProgram, path: Path, outputs: Sequence[str], metadata: Mapping[str, str]
) -> None:
    """Write an ONNX file with its metadata.

    Raises:
        UserError: The packages for it are not installed.
    """
    require_onnx()
    with _quiet():
        made = torch.onnx.export(program, output_names=list(outputs), dynamo=True, verbose=False)
    assert made is not None
    made.model.metadata_props.update(metadata)
    with replaced_when_done(path) as temporary:
        made.save(temporary, external_data=False)


def require_onnx() -> None:
    """Say what to install where something is missing.

    Raises:
        UserError: A package of the extra `export` is not there.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UserError(
            f"ONNX needs {', '.join(missing)}: pip install 'vocdist[export]', or leave it out with "
            f"formats=[safetensors,torch]"
        )


def onnx_difference(path: Path, graph: ExportGraph, size: tuple[int, int]) -> float:
    """Greatest difference between onnxruntime and the model, over other batches and sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Any]:
        feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return _difference(graph, run, size)


def program_difference(path: Path, graph: ExportGraph, size: tuple[int, int]) -> float:
    """The same for a file of torch.export."""
    module = torch.export.load(path).module()

    def run(inputs: tuple[Tensor, ...]) -> list[Any]:
        outputs = module(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return _difference(graph, run, size)


def check(difference: float, path: Path) -> None:
    """Say how far a file is from the model, and refuse one that computes something else.

    Raises:
        UserError: It differs by more than `TOLERANCE`.
    """
    if not difference <= TOLERANCE:
        raise UserError(
            f"{path}: differs from the model by {difference:.2g}, more than {TOLERANCE:g}: do not "
            f"use it, and report the versions of torch and onnxruntime"
        )
    print(f"{path}: differs from the model by {difference:.1g} at most")


def _difference(graph: ExportGraph, run: Any, size: tuple[int, int]) -> float:
    worst = 0.0
    height, width = size
    for batch, h, w in ((1, width, height), (3, height, width)):
        inputs = example_inputs(graph, batch, h, w)
        with torch.no_grad():
            outputs = graph(*inputs)
        expected = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        for ours, theirs in zip(run(inputs), expected, strict=True):
            scale = max(h, w) if ours.ndim == 3 else 1
            worst = max(worst, float((ours - theirs).abs().max()) / scale)
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own notices off the console; its errors still come."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


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
    # Of a mean over classes that some are missing from, how many it is over.
    over = {key: measured_classes(key, results or {}) for key in figures}
    rows = "\n".join(
        f"| {key}{f' ({over[key]})' if over[key] else ''} | {value:.4g} |"
        for key, value in figures.items()
    )
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
