"""The RPN's model of a config: where its frozen features come from, and its parts."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config
from vocdist.errors import UserError
from vocdist.models.backbone import FrozenBackbone, build_network, load_weights
from vocdist.models.rpn.network import (
    AnchorRule,
    LossRule,
    MatchingRule,
    ProposalModel,
    ProposalRule,
    RegionProposalNetwork,
    SamplingRule,
)
from vocdist.runs.folder import (
    CHECKPOINTS,
    CONFIG,
    FINAL_WEIGHTS,
    named_weights,
    run_around,
    task_of,
    weights_file,
)

DEFAULT_CLASSIFIER_RUN = Path("runs/classifier")


def resolve_backbone(config: RpnConfig, begun: RpnConfig | None = None) -> RpnConfig:
    """Settle where the RPN's features come from, so that the run's config says it.

    The backbone of a run, or of the run whose weights or checkpoints are named, becomes
    `model.backbone`; `auto` becomes the run in `runs/classifier`, or, without one, ResNet-18 with
    ImageNet weights. A run that was `begun` keeps what it has, since its checkpoints hold the
    backbone.

    Raises:
        UserError: A path was given that is neither a finished run nor a weights file, or of a run
            of another task.
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
    if source == "none":
        return replace(config, model=replace(config.model, classifier=source))
    place = Path(source)
    # Of a run that is still training a checkpoint is to be named: its best one may yet change.
    of_checkpoints = CHECKPOINTS in (place.name, place.parent.name)
    if not place.is_file() and not of_checkpoints and not (place / FINAL_WEIGHTS).is_file():
        raise UserError(
            f"{place}: neither a weights file nor a finished classifier run (no {FINAL_WEIGHTS}): "
            f"train one with scripts/train_classifier.py run.dir={place}, or pass "
            f"model.classifier=none for an ImageNet backbone"
        )
    run = run_around(weights_file(place))
    if run is None:
        return replace(config, model=replace(config.model, classifier=source))
    if (task := task_of(run)) != ClassifierConfig().task:
        raise UserError(
            f"model.classifier={source}: is of a run of another task ({task}): pass a classifier's"
        )
    backbone = load_config(ClassifierConfig, run / CONFIG).model.backbone
    return replace(config, model=replace(config.model, classifier=source, backbone=backbone))


def keeps_features(cache: bool | Literal["auto"], *, snap: bool, device: str) -> bool:
    """Whether `features.cache` asks for files of features on a kind of device.

    By itself only where they are worth it: a GPU computes them faster than they are read, and from
    images that are augmented anew in each epoch.
    """
    return snap and device != "cuda" if cache == "auto" else cache


def build_model(config: RpnConfig, *, pretrained: bool) -> ProposalModel:
    """The model on the CPU, see `Task.build`."""
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
        load_weights(network, config.model.backbone, named_weights(config.model.weights))
    else:
        load_weights(network, config.model.backbone, str(weights_file(Path(source))))
