"""Settings of the commands that do not train."""

from typing import Literal

from pydantic.dataclasses import dataclass

from vocdist.config.training import TrackingConfig
from vocdist.config.values import (
    STRICT,
    Count,
    Folder,
    Fraction,
    JpegQuality,
    Keys,
    NonNegative,
    Place,
)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShardsConfig:
    """Conversion of one VOC root into shards.

    Attributes:
        source: A folder that holds a VOC tree, its URL, or `kaggle:owner/name`.
        output: The folder to write, one per data set; or its URL (`s3://`, `gs://`, `hf://`).
        name: The data set's name in the manifest; the output folder's name when null.
        classes: Class names in the order of their ids; VOC's twenty when null. Objects of other
            names are counted and left out.
        split: `seeded` (shuffle and cut), `lists` (`ImageSets/Main/{train,val}.txt`), or `auto`:
            lists where both are there, seeded where not and for VOC2007's and VOC2012's own.
        split_ratio: Share of the samples that go to train in a seeded split.
        split_seed: Seed of that shuffle.
        skip_difficult: Leave out boxes flagged as difficult, and images whose boxes all are.
        negatives: Keep images of nothing: with an XML that holds no object, or without any.
        exif_boxes: The picture that boxes were drawn on where a photograph is stored turned, by
            EXIF, and its XML's size does not tell: `upright`, `stored`, or `auto`: left out.
        strict: Stop at the first file or box that cannot be used as it is, instead of leaving it
            out (or clipping the box) and reporting it.
        max_rejected: Share of the files that may be left out for a fault.
        follow_links: Take files that are links to places outside the VOC tree.
        decode_images: Decode every image to its end, which takes most of the time of a conversion;
            false looks at its first and last bytes only.
        max_side: Scale images whose long side exceeds this many pixels, boxes too; null: none.
        jpeg_quality: Of the images that are scaled, 1 to 100.
        samples_per_shard: Samples in each tar file; the last of a split may hold fewer.
        workers: Processes that read images and write shards.
        engine: What runs them: `local` (this machine), `loky` (this machine, by joblib's workers,
            as `local` is where processes cannot be forked), or a cluster of `ray` or `dask`, whose
            machines see source and output under the same paths. RAY_ADDRESS and
            DASK_SCHEDULER_ADDRESS name a running cluster; a Dask one is used as a whole.
        pictures: Draw statistics and a contact sheet beside the shards.
        tracking: Of the data set, as a W&B artifact: manifest, pictures, and where the shards are.
    """

    source: str
    output: Place
    name: str | None = None
    classes: tuple[str, ...] | None = None
    split: Literal["auto", "lists", "seeded"] = "auto"
    split_ratio: Fraction = 0.8
    split_seed: int = 42
    skip_difficult: bool = False
    negatives: bool = False
    exif_boxes: Literal["auto", "upright", "stored"] = "auto"
    strict: bool = False
    max_rejected: Fraction = 0.1
    follow_links: bool = False
    decode_images: bool = True
    max_side: Count | None = None
    jpeg_quality: JpegQuality = 90
    samples_per_shard: Count = 500
    workers: Count = 1
    engine: Literal["local", "loky", "ray", "dask"] = "local"
    pictures: bool = True
    tracking: TrackingConfig = TrackingConfig(wandb="disabled")


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
