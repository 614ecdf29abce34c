"""From a config to a task and its batches: the one place that takes the sections apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config.training import DataConfig
from vocdist.config_file import load_config
from vocdist.data.cache import DecodedCache
from vocdist.data.dataset import RequestedSamples
from vocdist.data.feature_dataset import FeatureDataset
from vocdist.data.feature_files import FeatureFiles
from vocdist.data.geometry import shrink, shrunk_size
from vocdist.data.loader import BatchLoader
from vocdist.data.padding import Padding
from vocdist.data.transforms import (
    ClassifierEvalTransform,
    ClassifierTrainTransform,
    Example,
    RpnTransform,
    Transform,
)
from vocdist.data.workers import usable_cores
from vocdist.errors import UserError
from vocdist.models.backbone import FrozenBackbone, build_network
from vocdist.models.classifier import Classifier
from vocdist.models.losses import MultilabelLoss
from vocdist.models.weights import load_weights
from vocdist.remote.cache import CacheRule, default_cache
from vocdist.rpn.network import (
    AnchorRule,
    LossRule,
    MatchingRule,
    ProposalRule,
    RegionProposalNetwork,
    SamplingRule,
)
from vocdist.shards.reader import Annotations, ShardReader
from vocdist.training.classifier_task import ClassifierTask, positive_weights
from vocdist.training.rpn_task import ProposalModel, RpnTask
from vocdist.training.run_folder import CONFIG, FINAL_WEIGHTS
from vocdist.training.task import Task

# Of the classifier's whole frames: sides are multiples of this, and the long one at most so many
# short ones.
FRAME_MULTIPLE = 32
FRAME_ASPECT = 3
DEFAULT_CLASSIFIER_RUN = Path("runs/classifier")


def build_reader(config: TaskConfig, split: str) -> ShardReader:
    """Open a split of the configured shards, with its limit."""
    limit = config.data.limit_train if split == "train" else config.data.limit_val
    reader = ShardReader(config.data.shards, split, limit, cache_rule(config.data))
    if not len(reader):
        raise UserError(
            f"{config.data.shards}: its {split} split is empty: make shards with a split_ratio "
            f"that leaves some images for it"
        )
    return reader


def cache_rule(data: DataConfig) -> CacheRule:
    """Where copies of remote shards are kept."""
    return CacheRule(data.cache_dir or default_cache(), data.cache_bytes)


def build_task(config: TaskConfig, train_reader: ShardReader, *, pretrained: bool) -> Task:
    """The task with its model on the CPU.

    `pretrained` loads the weights that training starts from; leave it out where those of a run
    are loaded next.

    Raises:
        UserError: The weights cannot be had, or the anchors do not fit the levels.
    """
    if isinstance(config, ClassifierConfig):
        return _build_classifier(config, train_reader, pretrained)
    return RpnTask(_build_proposal_model(config, pretrained))


def build_trained_task(config: TaskConfig, classes: Sequence[str]) -> Task:
    """The task around a model whose weights are loaded next, for use and not for training."""
    if isinstance(config, ClassifierConfig):
        model = Classifier(config.model.backbone, len(classes))
        return ClassifierTask(model, classes, eval_flip=config.input.eval_flip)
    return RpnTask(_build_proposal_model(config, pretrained=False))


@dataclass(frozen=True)
class EvaluationView:
    """How an evaluation sees an image.

    Attributes:
        transform: From stored pixels to the network's input.
        short_side: What `shrink` does to stored pixels first.
        padding: For images of varying size; None where all inputs have one.
    """

    transform: Transform
    short_side: int | None
    padding: Padding | None

    def shape(self, stored_hw: tuple[int, int]) -> tuple[int, int] | None:
        """(height, width) of the input that an image of this size becomes; None: always one."""
        if self.padding is None:
            return None
        return self.padding.padded(self.padding.sizes(np.array([stored_hw])))

    def example(
        self, pixels: Tensor, stored: Annotations, shape: tuple[int, int] | None
    ) -> Example:
        """The input of stored pixels (3, H, W) uint8, for a batch of this shape."""
        # Evaluation draws nothing from the generator; the transform's signature wants one.
        rng = np.random.default_rng(0)
        return self.transform(shrink(pixels, self.short_side), stored, rng, shape)


def evaluation_view(config: TaskConfig, classes: int) -> EvaluationView:
    """What the loader of an evaluation does to images, for images that come from elsewhere."""
    return EvaluationView(
        _transform(config, classes, training=False),
        config.data.short_side,
        _padding(config, training=False),
    )


def build_loader(
    config: TaskConfig,
    reader: ShardReader,
    *,
    training: bool,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    features: FeatureFiles | None = None,
    keep_decoded: bool = False,
) -> BatchLoader:
    """A rank's batches of a split, with the task's geometry; pin memory that a GPU will copy.

    With `features` (of an RPN's split) no image is read. `keep_decoded` allows the cache that the
    config asks for, where epochs will follow each other.
    """
    transform = _transform(config, len(reader.manifest.classes), training)
    dataset: RequestedSamples | FeatureDataset
    if features is not None:
        assert isinstance(transform, RpnTransform)
        dataset = FeatureDataset(reader, features, transform, config.train.seed)
    else:
        cache = _cache(config, reader) if keep_decoded and config.data.decoded_cache else None
        dataset = RequestedSamples(
            reader, transform, config.train.seed, config.data.short_side, cache
        )
    return BatchLoader(
        dataset,
        config.train.global_batch if training else config.train.eval_batch,
        rank=rank,
        world_size=world_size,
        parts=config.train.accumulate,
        # Features are read faster than a worker could hand them over.
        num_workers=0 if features else config.data.num_workers,
        drop_last=config.train.drop_last,
        padding=_padding(config, training),
        pin_memory=pin_memory,
        shuffle_shards=config.data.shuffle_shards,
    )


def resolve_features(config: RpnConfig, begun: RpnConfig | None = None) -> RpnConfig:
    """Settle where the RPN's features come from, so that the run's config says it.

    A run's backbone becomes `model.backbone`; `auto` becomes the run in `runs/classifier`, or,
    without one, ResNet-18 with ImageNet weights. A run that was `begun` keeps what it has, since
    its checkpoints hold the backbone.

    Raises:
        UserError: A path was given that is neither a finished run nor a weights file.
    """
    source = config.model.classifier
    if begun and source in ("auto", begun.model.classifier):
        kept = replace(
            config.model,
            classifier=begun.model.classifier,
            backbone=begun.model.backbone,
            weights=begun.model.weights,
        )
        return replace(config, model=kept)
    if source == "auto":
        if not (DEFAULT_CLASSIFIER_RUN / FINAL_WEIGHTS).is_file():
            fallback = replace(config.model, classifier="none", backbone="resnet18")
            return replace(config, model=fallback)
        source = str(DEFAULT_CLASSIFIER_RUN)
    if source == "none" or Path(source).is_file():
        return replace(config, model=replace(config.model, classifier=source))
    run = Path(source)
    if not (run / CONFIG).is_file() or not (run / FINAL_WEIGHTS).is_file():
        raise UserError(
            f"{run}: neither a weights file nor a finished classifier run (no {FINAL_WEIGHTS}): "
            f"train one with scripts/train_classifier.py run.dir={run}, or pass "
            f"model.classifier=none for an ImageNet backbone"
        )
    backbone = load_config(ClassifierConfig, run / CONFIG).model.backbone
    return replace(config, model=replace(config.model, classifier=source, backbone=backbone))


def _build_classifier(
    config: ClassifierConfig, train_reader: ShardReader, pretrained: bool
) -> ClassifierTask:
    classes = train_reader.manifest.classes
    settings = config.model
    model = Classifier(
        settings.backbone,
        len(classes),
        settings.batch_norm_momentum,
        settings.dropout,
        settings.sync_batch_norm,
    )
    if pretrained:
        load_weights(model.network, settings.backbone, settings.weights)
    loss = MultilabelLoss(
        pos_weight=_pos_weight(config.loss.pos_weight, train_reader),
        label_smoothing=config.loss.label_smoothing,
        focus_positive=config.loss.focus_positive,
        focus_negative=config.loss.focus_negative,
        negative_margin=config.loss.negative_margin,
    )
    return ClassifierTask(model, classes, loss, eval_flip=config.input.eval_flip)


def _pos_weight(rule: str, train_reader: ShardReader) -> Tensor | None:
    if rule == "none":
        return None
    ratio = positive_weights(train_reader.class_images, len(train_reader))
    return ratio.sqrt() if rule == "sqrt" else ratio


def _build_proposal_model(config: RpnConfig, pretrained: bool) -> ProposalModel:
    settings, matching = config.model, config.matching
    if not settings.strides or list(settings.strides) != sorted(set(settings.strides)):
        raise UserError(
            f"model.strides={list(settings.strides)}: give each level once, the finest first"
        )
    if len(settings.scales) != len(settings.strides):
        raise UserError(
            f"model.scales has {len(settings.scales)} groups for {len(settings.strides)} levels "
            f"in model.strides: give each level its scales, as [[64, 128], [256, 512]]"
        )
    network = build_network(settings.backbone)
    if pretrained:
        _load_backbone(network, config)
    backbone = FrozenBackbone(network, settings.backbone, settings.strides)
    try:
        rpn = RegionProposalNetwork(
            backbone.channels[0] if len(backbone.channels) == 1 else settings.hidden,
            AnchorRule(scales_per_level=settings.scales, ratios=settings.ratios),
            hidden=settings.hidden,
            matching=MatchingRule(
                positive_iou=matching.positive_iou,
                negative_iou=matching.negative_iou,
                best_anchor_min_iou=matching.best_anchor_min_iou,
            ),
            sampling=SamplingRule(
                max_positives=matching.max_positives,
                max_negatives=matching.max_negatives,
                max_total=matching.max_total,
            ),
            loss=LossRule(box_normalizer=matching.box_normalizer),
            proposals=ProposalRule(
                pre_nms_top_k=config.proposals.pre_nms_top_k,
                nms_threshold=config.proposals.nms_threshold,
                min_size=config.proposals.min_size,
                score_threshold=config.proposals.score_threshold,
            ),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    return ProposalModel(backbone, rpn, settings.hidden)


def _load_backbone(network: nn.Module, config: RpnConfig) -> None:
    source = config.model.classifier
    if source == "none":
        load_weights(network, config.model.backbone, config.model.weights)
    else:
        path = Path(source) if Path(source).is_file() else Path(source) / FINAL_WEIGHTS
        load_weights(network, config.model.backbone, str(path))


def _transform(config: TaskConfig, classes: int, training: bool) -> Transform:
    if isinstance(config, RpnConfig):
        box = config.input
        flip = training and box.flip
        snap = box.pad_multiple if box.snap else 1
        return RpnTransform(box.short_side, box.long_side, flip, box.one_based, snap)
    view = config.input
    if not training:
        size = view.eval_size or view.size
        share = view.eval_crop if view.eval_view == "centre" else None
        return ClassifierEvalTransform(classes, size, share)
    return ClassifierTrainTransform(
        classes,
        view.size,
        view.crop_scale,
        view.crop_ratio,
        view.flip,
        view.min_visible,
        view.color_jitter,
    )


def _padding(config: TaskConfig, training: bool) -> Padding | None:
    if isinstance(config, RpnConfig):
        box = config.input
        return Padding(box.short_side, box.long_side, box.pad_multiple, box.snap)
    if training or config.input.eval_view != "frame":
        return None
    # Not padded but stretched a little: padding would be averaged into the pooled features.
    short_side = config.input.eval_size or config.input.size
    return Padding(short_side, FRAME_ASPECT * short_side, FRAME_MULTIPLE, snap=True)


def _cache(config: TaskConfig, reader: ShardReader) -> DecodedCache:
    data = config.data
    samples = [
        min(limit or part.samples, part.samples)
        for part, limit in (
            (reader.manifest.splits["train"], data.limit_train),
            (reader.manifest.splits["val"], data.limit_val),
        )
    ]
    # Each split gets the part of the memory that is its part of the samples.
    max_bytes = int(data.decoded_cache or 0) * len(reader) // sum(samples)
    sizes = [shrunk_size(h, w, data.short_side) for h, w in reader.image_sizes.tolist()]
    return DecodedCache(np.asarray(sizes), max_bytes, min(data.num_workers, usable_cores()))
