"""From a config to a task and its batches: the one place that takes the sections apart."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from vocdist.config import ClassifierConfig, DataConfig, RpnConfig
from vocdist.config_file import load_config
from vocdist.data.dataset import ShardDataset
from vocdist.data.feature_dataset import FeatureDataset
from vocdist.data.feature_files import FeatureFiles
from vocdist.data.geometry import padded_size
from vocdist.data.loader import BatchLoader, Padding
from vocdist.data.transforms import (
    ClassifierEvalTransform,
    ClassifierTrainTransform,
    RpnTransform,
    Transform,
)
from vocdist.errors import UserError
from vocdist.models.backbone import FrozenBackbone, build_network
from vocdist.models.classifier import Classifier
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
from vocdist.shards.reader import ShardReader
from vocdist.training.classifier_task import ClassifierTask, positive_weights
from vocdist.training.rpn_task import ProposalModel, RpnTask
from vocdist.training.run_folder import CONFIG, FINAL_WEIGHTS
from vocdist.training.task import Task

TaskConfig = ClassifierConfig | RpnConfig
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
        return ClassifierTask(Classifier(config.model.backbone, len(classes)), classes)
    return RpnTask(_build_proposal_model(config, pretrained=False))


@dataclass(frozen=True)
class EvaluationView:
    """How an evaluation sees an image.

    Attributes:
        transform: From stored pixels to the network's input.
        padding: For images of varying size; None where all inputs have one.
    """

    transform: Transform
    padding: Padding | None

    def shape(self, stored_hw: tuple[int, int]) -> tuple[int, int] | None:
        """(height, width) of the input that an image of this size becomes; None: always one."""
        if self.padding is None:
            return None
        return padded_size(self.padding.sizes(np.array([stored_hw])), self.padding.multiple)


def evaluation_view(config: TaskConfig, classes: int) -> EvaluationView:
    """What the loader of an evaluation does to images, for images that come from elsewhere."""
    return EvaluationView(_transform(config, classes, training=False), _padding(config))


def build_loader(
    config: TaskConfig,
    reader: ShardReader,
    *,
    training: bool,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
    features: FeatureFiles | None = None,
) -> BatchLoader:
    """A rank's batches of a split, with the task's geometry; pin memory that a GPU will copy.

    With `features` (of an RPN's split) no image is read.
    """
    transform = _transform(config, len(reader.manifest.classes), training)
    dataset: ShardDataset | FeatureDataset = ShardDataset(reader, transform, config.train.seed)
    if features is not None:
        assert isinstance(transform, RpnTransform)
        dataset = FeatureDataset(reader, features, transform, config.train.seed)
    return BatchLoader(
        dataset,
        config.train.global_batch if training else config.train.eval_batch,
        rank=rank,
        world_size=world_size,
        parts=config.train.accumulate,
        # Features are read faster than a worker could hand them over.
        num_workers=0 if features else config.data.num_workers,
        drop_last=config.train.drop_last,
        padding=_padding(config),
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
        settings.backbone, len(classes), settings.batch_norm_momentum, settings.sync_batch_norm
    )
    if pretrained:
        load_weights(model.network, settings.backbone, settings.weights)
    pos_weight = None
    if settings.pos_weight:
        pos_weight = positive_weights(train_reader.class_images, len(train_reader))
    return ClassifierTask(model, classes, pos_weight)


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


def _padding(config: TaskConfig) -> Padding | None:
    if isinstance(config, ClassifierConfig):
        return None
    box = config.input
    return Padding(box.short_side, box.long_side, box.pad_multiple, box.snap)


def _transform(config: TaskConfig, classes: int, training: bool) -> Transform:
    if isinstance(config, RpnConfig):
        box = config.input
        flip = training and box.flip
        snap = box.pad_multiple if box.snap else 1
        return RpnTransform(box.short_side, box.long_side, flip, box.one_based, snap)
    if not training:
        return ClassifierEvalTransform(classes, config.input.size, config.input.eval_crop)
    return ClassifierTrainTransform(
        classes,
        config.input.size,
        config.input.crop_scale,
        config.input.crop_ratio,
        config.input.flip,
    )
