"""A trained model as ONNX and torch.export graphs."""

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
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.inference.images import input_batches
from vocdist.inference.trained import Trained
from vocdist.models.layers import set_channels_last
from vocdist.models.rpn.anchors import cell_anchors, centres_inside, clip_to_images, level_grid
from vocdist.models.rpn.box_coding import decode
from vocdist.tasks.classifier import ClassifierTask
from vocdist.tasks.rpn import ProposalModel


class ClassifierGraph(nn.Module):
    """`images` (B, 3, H, W) uint8 -> `scores` (B, classes) float32 in [0, 1]."""

    outputs = ("scores",)

    def __init__(self, task: ClassifierTask) -> None:
        """Around a trained model."""
        super().__init__()
        self.model = task.model
        self._task = task

    def forward(self, images: Tensor) -> Tensor:
        """Score the images, as evaluation does."""
        return self._task.scores(self.model, images)


class ProposalGraph(nn.Module):
    """Every anchor's box and score, in the order of `RegionProposalNetwork`.

    `images` (B, 3, H, W) uint8, scaled and padded, and `image_sizes` (B, 2) int64, their (height,
    width) before the padding -> `boxes` (B, A, 4) float32 xyxy within the image, in pixels of the
    input, and `scores` (B, A) in [0, 1], 0 where an anchor is not centred on the image.
    """

    outputs = ("boxes", "scores")

    def __init__(self, model: ProposalModel) -> None:
        """Around a trained model."""
        super().__init__()
        self.model = model
        self._rule = model.rpn.anchor_rule

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Box and score all anchors."""
        output, shapes = self.model([images], image_sizes)
        padded = (images.shape[2], images.shape[3])
        # The model's own grid is kept by size, which a graph for all sizes cannot do.
        levels = zip(shapes, self._rule.scales_per_level, strict=True)
        grid = torch.cat(
            [level_grid(shape, padded, cell_anchors(s, self._rule.ratios)) for shape, s in levels]
        )
        anchors = clip_to_images(grid, image_sizes)
        boxes = clip_to_images(decode(output.deltas, anchors), image_sizes)
        return boxes, output.objectness.sigmoid() * centres_inside(grid, image_sizes)


def export_graph(trained: Trained) -> ClassifierGraph | ProposalGraph:
    """The graph of a trained model, on the CPU and with NCHW weights, as other runtimes want them.

    Changes the model in place.
    """
    model = trained.task.model.cpu()
    set_channels_last(model, False)
    if isinstance(trained.task, ClassifierTask):
        return ClassifierGraph(trained.task).eval()
    assert isinstance(model, ProposalModel)
    return ProposalGraph(model).eval()


def example_size(trained: Trained) -> tuple[int, int]:
    """(height, width) of the input that a photograph of VOC's usual size becomes."""
    photograph = np.zeros((375, 500, 3), dtype=np.uint8)
    inputs = next(input_batches([photograph], trained.view, batch=1))
    assert inputs.batch is not None
    height, width = inputs.batch.images.shape[2:]
    return height, width


def example_inputs(graph: nn.Module, batch: int, height: int, width: int) -> tuple[Tensor, ...]:
    """Random images of a shape, and for proposals sizes that leave some padding."""
    generator = torch.Generator().manual_seed(batch + height + width)
    shape = (batch, 3, height, width)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if isinstance(graph, ClassifierGraph):
        return (images,)
    return images, torch.tensor([[height - 5, width], [height, width - 9]]).repeat(batch, 1)[:batch]


# Scores are compared as they are, boxes as a share of the image's longer side.
TOLERANCE = 1e-4
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def export_program(graph: nn.Module, size: tuple[int, int]) -> ExportedProgram:
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


def onnx_difference(path: Path, graph: nn.Module, size: tuple[int, int]) -> float:
    """Greatest difference between onnxruntime and the model, over other batches and sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Any]:
        feeds = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, feeds)]

    return _difference(graph, run, size)


def program_difference(path: Path, graph: nn.Module, size: tuple[int, int]) -> float:
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


def _difference(graph: nn.Module, run: Any, size: tuple[int, int]) -> float:
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
