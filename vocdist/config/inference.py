"""The settings of the scripts that show, use or export what is there."""

from typing import Literal

from pydantic.dataclasses import dataclass

from vocdist.config.values import STRICT, Count, Folder, Fraction, Keys, NonNegative


@dataclass(frozen=True, kw_only=True, config=STRICT)
class VisualizeConfig:
    """Settings of `scripts/visualize.py`.

    Attributes:
        output: Folder for the pictures; null: `pictures` in the run's folder, or
            `pictures/<name>` for shards and a VOC root.
        keys: Keys (file stems) of the images; null: the first `count`.
        count: How many, when no keys are given.
        split: Which split of the shards.
        proposals: For an RPN run: how many proposals are drawn on an image.
    """

    output: Folder | None = None
    keys: Keys | None = None
    count: Count = 12
    split: str = "val"
    proposals: Count = 20


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PredictConfig:
    """Settings of `scripts/predict.py`.

    Attributes:
        output: Folder for the results; null: `predictions` beside the weights.
        threshold: Score from which on a class is present; null: the run's own for each class, 0.5
            where it has none.
        pictures: How many images are drawn, from the first on.
        device: `auto` (CUDA, else MPS, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.
        batch: Images that are computed at once.
        workers: Processes that read images; 0: none but this one.
    """

    output: Folder | None = None
    threshold: Fraction | None = None
    pictures: NonNegative = 24
    device: str = "auto"
    batch: Count = 32
    workers: NonNegative = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ProposeConfig:
    """Settings of `scripts/propose.py`.

    Attributes:
        output: Folder for the results; null: `proposals` beside the weights.
        count: The best boxes of an image; fewer where NMS leaves fewer, and never more than 300.
        pictures: How many images are drawn, from the first on.
        drawn: Boxes that are drawn on each.
        device: `auto` (CUDA, else MPS, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.
        batch: Images that are computed at once.
        workers: Processes that read images; 0: none but this one.
    """

    output: Folder | None = None
    count: Count = 300
    pictures: NonNegative = 24
    drawn: Count = 20
    device: str = "auto"
    batch: Count = 8
    workers: NonNegative = 2


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExportConfig:
    """Settings of `scripts/export.py`.

    Attributes:
        output: Folder for the files; null: `export` beside the weights.
        formats: Which files: model.safetensors, model.onnx, model.pt2 (torch.export).
    """

    output: Folder | None = None
    formats: tuple[Literal["safetensors", "onnx", "torch"], ...] = ("safetensors", "onnx", "torch")
