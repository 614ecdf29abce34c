"""The settings of every command: typed, frozen, read from YAML plus `section.key=value` overrides.

One dataclass per section; a command's settings are `ShardsConfig`, `ClassifierConfig` or
`RpnConfig`. Sections hold plain values: they are passed on as arguments, never as a whole, to the
rooms below `training/`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, ConfigDict, Field
from pydantic.dataclasses import dataclass

from vocdist.remote.location import parse_location

_STRICT = ConfigDict(extra="forbid")

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
Folder = Annotated[Path, AfterValidator(Path.expanduser)]
# A folder, or a URL as a str.
Place = Annotated[Path | str, BeforeValidator(parse_location)]
# A file stem may well be a number.
Key = Annotated[str, Field(coerce_numbers_to_str=True)]
JpegQuality = Annotated[int, Field(ge=1, le=100)]


def _precision_name(value: Any) -> Any:
    # Accelerate's own name for it.
    return "fp32" if value == "no" else value


BackboneName = Literal[
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
]
Precision = Annotated[Literal["fp32", "bf16", "fp16"], BeforeValidator(_precision_name)]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrackingConfig:
    """Weights & Biases.

    Attributes:
        wandb: `auto` (online when logged in, else offline), `online`, `offline` or `disabled`.
        project: W&B project name.
    """

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "vocdist"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ShardsConfig:
    """Conversion of one VOC root into shards.

    Attributes:
        source: A folder that holds a VOC tree, its URL, or `kaggle:owner/name`.
        output: The folder to write, one per data set; or its URL (`s3://`, `gs://`, `hf://`).
        name: The data set's name in the manifest; the output folder's name when null.
        classes: Class names in the order of their ids; VOC's twenty when null. Objects of other
            names are counted and left out.
        split: `seeded` (shuffle and cut) or `lists` (`ImageSets/Main/{train,val}.txt`).
        split_ratio: Share of the samples that go to train in a seeded split.
        split_seed: Seed of that shuffle.
        skip_difficult: Leave out boxes flagged as difficult.
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
        engine: What runs them: `loky` (this machine), or a cluster of `ray` or `dask`, whose
            machines see source and output under the same paths. RAY_ADDRESS and
            DASK_SCHEDULER_ADDRESS name a running cluster; a Dask one is used as a whole.
        pictures: Draw statistics and a contact sheet beside the shards.
        tracking: Of the data set, as a W&B artifact: manifest, pictures, and where the shards are.
    """

    source: str
    output: Place
    name: str | None = None
    classes: tuple[str, ...] | None = None
    split: Literal["seeded", "lists"] = "seeded"
    split_ratio: Fraction = 0.8
    split_seed: int = 42
    skip_difficult: bool = False
    strict: bool = False
    max_rejected: Fraction = 0.1
    follow_links: bool = False
    decode_images: bool = True
    max_side: Count | None = None
    jpeg_quality: JpegQuality = 90
    samples_per_shard: Count = 500
    workers: Count = 1
    engine: Literal["loky", "ray", "dask"] = "loky"
    pictures: bool = True
    tracking: TrackingConfig = TrackingConfig(wandb="disabled")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataConfig:
    """Which shards, and how many processes decode them.

    Attributes:
        shards: Folder written by `scripts/make_shards.py`, or its URL (`s3://`, `gs://`,
            `https://`, `hf://`), which is read through a cache on this machine.
        num_workers: Loader processes on each rank; 0 decodes in the training process.
        limit_train: Use only the first this many train samples; null for all.
        limit_val: Likewise for val.
        shuffle_shards: Shards that are shuffled together in training, for shards that do not fit
            into the cache all at once: it must hold twice as many. Null: all of them. Changes the
            order of the samples.
        cache_dir: Where copies of remote shards are kept; null: `$VOCDIST_CACHE`, else
            `~/.cache/vocdist`.
        cache_bytes: How many bytes of them, as `20GB`; those used longest ago go first. Null: no
            bound.
        short_side: Scale decoded images down to this short side, pixels, before anything else
            happens to them; null: leave them as they are stored. It makes the cache smaller.
        decoded_cache: Memory of each process in which decoded images stay from epoch to epoch, as
            `4GB`; null: none. Those that do not fit are decoded each time, to the same result.
    """

    shards: Place = Path("shards/voc2012")
    num_workers: NonNegative = 2
    short_side: Count | None = None
    decoded_cache: ByteSize | None = None
    limit_train: Count | None = None
    limit_val: Count | None = None
    shuffle_shards: Count | None = None
    cache_dir: Folder | None = None
    cache_bytes: ByteSize | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClassifierInputConfig:
    """Geometry and colours of the classifier's input.

    Attributes:
        size: Side of the square training input, pixels.
        crop_scale: Range of a training crop's area, as a share of the image's.
        crop_ratio: Range of its width / height.
        min_visible: A crop has the classes of those boxes that it shows: it and the box have at
            least this share of the smaller of their areas in common. Null: all classes of the
            image, whatever the crop shows.
        flip: Mirror half of the training images.
        color_jitter: Strength of random brightness, contrast and saturation: the factor of each is
            uniform in 1 ± strength.
        eval_view: What an evaluation sees: `centre` (the centred square of side `eval_crop`),
            `squeezed` (the whole image, in a square) or `frame` (the whole image in nearly its own
            proportions: its sides are rounded to multiples of 32, so that images share shapes).
        eval_size: Side of that square, or short side of that frame, pixels; null: `size`.
        eval_crop: Side of the centred square, as a share of the image's short side.
        eval_flip: Score the mean of an image's logits and its mirror image's.
    """

    size: Count = 192
    crop_scale: tuple[Fraction, Fraction] = (0.7, 1.0)
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    min_visible: Fraction | None = None
    flip: bool = True
    color_jitter: tuple[Fraction, Fraction, Fraction] = (0.0, 0.0, 0.0)
    eval_view: Literal["centre", "squeezed", "frame"] = "centre"
    eval_size: Count | None = None
    eval_crop: Fraction = 192 / 220
    eval_flip: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RpnInputConfig:
    """Geometry of the RPN's input.

    Attributes:
        short_side: Length that the short side is resized to, pixels.
        long_side: Upper bound of the long side, pixels; it wins over `short_side`.
        pad_multiple: Height and width of a batch are padded up to a multiple of this, pixels.
        snap: Scale each side to the nearest multiple of `pad_multiple` instead: nothing is padded,
            the image is stretched by a few percent, and a batch holds images of one size.
        flip: Mirror half of the training images, boxes included.
        one_based: Boxes' corners count pixels from 1, as VOC's do; false takes them as they are,
            as the notebook did and some annotation tools write them.
    """

    short_side: Count = 800
    long_side: Count = 1333
    pad_multiple: Count = 32
    snap: bool = False
    flip: bool = False
    one_based: bool = True


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class FeaturesConfig:
    """The frozen backbone's features: computed in every epoch, or once and kept.

    Attributes:
        cache: Keep them, of every image and (with `input.flip`) of its mirror image, rounded to
            fp16; needs `input.snap`. Epochs then cost no more than the head.
        folder: Where they are kept, for all runs; remove it whenever no run is going.
        max_gib: What the folder may hold; files used longest ago make room for new ones.
    """

    cache: bool = False
    folder: Folder = Path("cache/features")
    max_gib: Positive = 20.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClassifierModelConfig:
    """The classifier's network.

    Attributes:
        backbone: Name of a torchvision model.
        weights: `imagenet` (torchvision's download), `none`, or the path of a state dict.
        batch_norm_momentum: Overrides torchvision's (0.01 in MobileNetV3, slow for short runs).
        sync_batch_norm: Normalise by the samples of all processes, so that their number changes
            nothing; false: each process by its own, without waiting for the others in each layer.
            With `train.accumulate` each part of a step is normalised apart either way.
        dropout: Overrides the share of features that torchvision drops before the last layer.
    """

    backbone: BackboneName = "mobilenet_v3_small"
    weights: str = "imagenet"
    batch_norm_momentum: Fraction | None = None
    sync_batch_norm: bool = True
    dropout: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClassifierLossConfig:
    """Binary cross entropy over the classes, and what may be changed about it.

    Attributes:
        pos_weight: Factor of a class's positives, r being its negatives / positives in the train
            split: `none` (1), `ratio` (r) or `sqrt` (the root of r).
        label_smoothing: Targets are moved this far from 0 and 1 towards one half.
        focus_positive: Exponent of a positive's distance from its target, a factor of its loss.
        focus_negative: The same for negatives; more than for positives: asymmetric loss (Ridnik
            et al. 2021, section 3.2).
        negative_margin: Negatives' probabilities are lowered by this first, down to 0.
    """

    pos_weight: Literal["none", "ratio", "sqrt"] = "ratio"
    label_smoothing: Fraction = 0.0
    focus_positive: NonNegativeFloat = 0.0
    focus_negative: NonNegativeFloat = 0.0
    negative_margin: Fraction = 0.0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RpnModelConfig:
    """The RPN's frozen backbone and its head.

    Attributes:
        classifier: Where the features come from: a classifier run, a state dict's path, `none` for
            `backbone` with `weights`, or `auto`: the run in `runs/classifier` where there is one,
            else ResNet-18 with ImageNet weights.
        backbone: The network of a plain state dict, or of `classifier=none`.
        weights: As in the classifier; used with `classifier=none`.
        hidden: Channels of the head's 3×3 convolution.
        strides: Feature levels, by their stride in pixels, finest first.
        scales: Anchor sides (square root of the area, pixels) of each level.
        ratios: Anchor height / width.
    """

    classifier: str = "auto"
    backbone: BackboneName = "mobilenet_v3_small"
    weights: str = "imagenet"
    hidden: Count = 256
    strides: tuple[Literal[8, 16, 32], ...] = (32,)
    scales: tuple[tuple[Positive, ...], ...] = ((32.0, 64.0, 128.0),)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MatchingConfig:
    """Which anchors train the head, and as what (Faster R-CNN, section 3.1.2).

    Attributes:
        positive_iou: An anchor at or above this IoU with a box is positive.
        negative_iou: An anchor below this IoU with every box is negative.
        best_anchor_min_iou: The best anchors of a box are positive too, from this IoU on; null:
            never. 0 is the notebook's: a box that touches no anchor makes all of them positive.
        max_total: Anchors that an image's loss sees; null: only the two bounds below.
        max_positives: Positives among them.
        max_negatives: Negatives among them.
        box_normalizer: The box loss of an image is divided by its positives' coordinates
            (`positives`) or by its sampled anchors (`sampled`, as in torchvision).
    """

    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    best_anchor_min_iou: Fraction | None = 1e-6
    max_total: Count | None = 256
    max_positives: Count = 128
    max_negatives: Count = 256
    box_normalizer: Literal["positives", "sampled"] = "positives"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ProposalsConfig:
    """How the head's output becomes proposals.

    Attributes:
        pre_nms_top_k: Best anchors of each level that are decoded.
        nms_threshold: IoU above which the lower-scored of two boxes is dropped.
        min_size: Shortest side of a proposal, pixels of the resized image.
        score_threshold: Objectness below which nothing is proposed; null for none.
    """

    pre_nms_top_k: Count = 1200
    nms_threshold: Fraction = 0.7
    min_size: float = 16.0
    score_threshold: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainConfig:
    """The loop: how long, in what batches, from where.

    Attributes:
        epochs: Passes over the train split.
        global_batch: Samples of one optimizer step, over all processes.
        accumulate: Parts in which a step is computed, one after the other, to save memory.
        eval_batch: Samples of one evaluation batch. Each process takes whole ones, so that figures
            do not depend on the number of processes.
        drop_last: Leave out the last, smaller batch of an epoch instead of training on it.
        seed: Of the weights, the order and the augmentation.
        clip_norm: Upper bound of the gradient's norm; null for none.
        non_finite: What to do about a step whose loss or gradient is inf or NaN: `stop` the run, or
            `skip` the step and count it. Either way the weights stay as they were, and the samples
            are written to `non_finite.jsonl`. fp16's overflows are no such steps.
        resume: `auto` (go on if the run folder holds a checkpoint), `never`, or a checkpoint.
        log_every: Steps between two logged rows.
        save_every: Steps between two checkpoints inside an epoch; null: at its end only.
        keep: Checkpoints kept besides the best one.
    """

    epochs: Count = 8
    global_batch: Count = 32
    accumulate: Count = 1
    eval_batch: Count = 32
    drop_last: bool = False
    seed: NonNegative = 0
    clip_norm: Positive | None = None
    non_finite: Literal["stop", "skip"] = "stop"
    resume: str = "auto"
    log_every: Count = 20
    save_every: Count | None = None
    keep: Count = 2


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OptimConfig:
    """AdamW, its learning rate over time, and the average of the weights it finds.

    Attributes:
        lr: Peak learning rate.
        backbone_lr: Peak rate of a backbone's weights, where they are trained; null: `lr`.
        weight_decay: AdamW's decoupled weight decay.
        decay_norms: Decay norms and biases too, as the notebook does.
        schedule: `constant`, `cosine` (moves every step), `cosine_by_epoch` (the notebook's) or
            `one_cycle` (up over the first 30% of the steps, then down, both by a half cosine).
        warmup_steps: Steps over which the rate rises linearly from zero; `one_cycle` needs none.
        ema_decay: Measure and keep an exponential moving average of the weights: this is its
            decay per step, lower in the first steps; null: the weights themselves.
    """

    lr: Positive = 3e-4
    backbone_lr: Positive | None = None
    weight_decay: float = 1e-4
    decay_norms: bool = True
    schedule: Literal["constant", "cosine", "cosine_by_epoch", "one_cycle"] = "cosine"
    warmup_steps: NonNegative = 0
    ema_decay: Fraction | None = None


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RuntimeConfig:
    """The machine.

    Attributes:
        device: `auto` takes what accelerate finds: CUDA, then MPS, then the CPU.
        detect_anomaly: Stop at the first gradient that is not a number and say which operation
            made it: for debugging, since it takes twice the time.
        mixed_precision: `fp32`, `bf16` or `fp16` (a GPU's only).
        channels_last: Keep images and convolution weights as NHWC in memory.
        collective_timeout_s: Seconds after which a process that does not answer the others is
            given up, and the run ends. Longer than any wait for data, than saving takes, and than
            one process may compute features that are kept while the others wait.
        compile: Compile the model with `torch.compile` in the first steps of a run.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    detect_anomaly: bool = False
    mixed_precision: Precision = "fp32"
    channels_last: bool = True
    collective_timeout_s: Positive = 1800.0
    compile: bool = False


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RunConfig:
    """Where a run keeps what it makes.

    Attributes:
        dir: The run's folder: config, metrics, checkpoints, pictures, final weights.
    """

    dir: Folder


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ClassifierConfig:
    """Settings of `scripts/train_classifier.py`."""

    run: RunConfig = RunConfig(dir=Path("runs/classifier"))
    task: Literal["classifier"] = "classifier"
    data: DataConfig = DataConfig()
    input: ClassifierInputConfig = ClassifierInputConfig()
    model: ClassifierModelConfig = ClassifierModelConfig()
    loss: ClassifierLossConfig = ClassifierLossConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    tracking: TrackingConfig = TrackingConfig()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class RpnConfig:
    """Settings of `scripts/train_rpn.py`."""

    run: RunConfig = RunConfig(dir=Path("runs/rpn"))
    task: Literal["rpn"] = "rpn"
    data: DataConfig = DataConfig()
    input: RpnInputConfig = RpnInputConfig()
    features: FeaturesConfig = FeaturesConfig()
    model: RpnModelConfig = RpnModelConfig()
    matching: MatchingConfig = MatchingConfig()
    proposals: ProposalsConfig = ProposalsConfig()
    train: TrainConfig = TrainConfig()
    optim: OptimConfig = OptimConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    tracking: TrackingConfig = TrackingConfig()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class VisualizeConfig:
    """Settings of `scripts/visualize.py`.

    Attributes:
        output: Folder for the pictures; null: `pictures` in the run or shard folder, or
            `pictures/<name>` for a VOC root.
        keys: Keys (file stems) of the images; null: the first `count`.
        count: How many, when no keys are given.
        split: Which split of the shards.
        proposals: For an RPN run: how many proposals are drawn on an image.
    """

    output: Folder | None = None
    keys: tuple[Key, ...] | None = None
    count: Count = 12
    split: str = "val"
    proposals: Count = 20


@dataclass(frozen=True, kw_only=True, config=_STRICT)
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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ProposeConfig:
    """Settings of `scripts/propose.py`.

    Attributes:
        output: Folder for the results; null: `proposals` beside the weights.
        count: Boxes of an image, at most; no more than 300 are ever made.
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


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ExportConfig:
    """Settings of `scripts/export.py`.

    Attributes:
        output: Folder for the files; null: `export` beside the weights.
        formats: Which files: model.safetensors, model.onnx, model.pt2 (torch.export).
    """

    output: Folder | None = None
    formats: tuple[Literal["safetensors", "onnx", "torch"], ...] = ("safetensors", "onnx", "torch")
