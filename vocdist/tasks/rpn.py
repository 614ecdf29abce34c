"""The Region Proposal Network as a task: where the objects of an image are, of any class.

`RpnTask` first; then proposals drawn on images. `rpn_model.py` builds its model, and `rpn_card.py`
has the sentences of its model card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from torch import Tensor, nn

from vocdist.config import RpnConfig
from vocdist.data.batch import Batch
from vocdist.data.features import STORED_DTYPE
from vocdist.data.geometry import Padding
from vocdist.data.loader import BatchLoader
from vocdist.data.transforms import RpnTransform, scaled_box_sizes
from vocdist.drawing import draw_proposals
from vocdist.errors import UserError
from vocdist.metrics.proposals import COUNTS, baseline_ious, best_ious, proposal_recall
from vocdist.metrics.tables import recall_table
from vocdist.models.rpn.anchors import anchor_sizes
from vocdist.models.rpn.network import FeatureShapes, HeadOutput, ProposalGraph, ProposalModel
from vocdist.models.rpn.proposals import Proposals
from vocdist.runs.predictions import RpnPredictions
from vocdist.shards.reader import ShardReader
from vocdist.tasks.rpn_card import rpn_card
from vocdist.tasks.rpn_model import build_model, keeps_features, resolve_backbone
from vocdist.tasks.task import FrozenFeatures, ModelCard, Record, Task
from vocdist.voc.counts import notes_on_no_objects

# Numbers of proposals at which a record keeps each box's best IoU: the metrics' and those between.
CURVE_COUNTS = tuple(sorted({1, 2, 5, 10, 20, 30, 75, 150, 250, *COUNTS}))
# Proposals of an image that a record keeps and a picture shows: more than this many hide the image.
KEPT_PROPOSALS = 20
# Boxes of the train split in the picture of the anchors: more would hide each other.
SAMPLED_BOXES = 2000


class RpnTask(Task):
    """Objectness and box losses; proposal recall."""

    config_type = RpnConfig
    title = "Region Proposal Network"
    # Steadier than recall at one IoU, which a few boxes near 0.5 sway.
    best_metric = "AR@200"
    headline = ("objectness", "box", "recall50@200", "AR@200")
    tiles = (
        ("recall50@200", "recall at IoU 0.5, 200 proposals", "recall50@200/grid", "uniform grid"),
        ("AR@200", "AR, 200 proposals", "AR@200/grid", "uniform grid"),
        ("recall50@50", "recall at IoU 0.5, 50 proposals", "recall50@50/grid", "uniform grid"),
        ("loss", "val loss", None, ""),
    )
    curves: ClassVar[Mapping[str, str]] = {
        "val/recall50@200": "recall at IoU 0.5",
        "val/AR@200": "AR",
    }
    curves_title = "Validation, 200 proposals"
    pictures_name = "proposals"
    predicts = "boxes"
    knows_classes = False
    # Its images are twenty times as large as the classifier's.
    debug_batch = 4
    size_setting = "input.short_side"

    def __init__(self, config: RpnConfig, classes: Sequence[str], model: ProposalModel) -> None:
        """Keep the parts."""
        super().__init__(config, classes, model)
        self._model = model
        self._rpn = model.rpn
        # The same images are measured after every epoch, be it of one split or of two.
        self._baselines: dict[tuple[int, bytes], Mapping[str, np.ndarray]] = {}
        # One pass of NMS serves every count that is measured.
        self._proposal_rule = replace(model.rpn.proposal_rule, post_nms_top_k=max(COUNTS))

    @classmethod
    def build(
        cls,
        config: RpnConfig,
        classes: Sequence[str],
        train: ShardReader | None,
        *,
        pretrained: bool,
    ) -> Self:
        """See `Task.build`."""
        return cls(config, classes, build_model(config, pretrained=pretrained))

    @classmethod
    def transform(cls, config: RpnConfig, classes: int, *, training: bool) -> RpnTransform:
        """See `Task.transform`."""
        box = config.input
        return RpnTransform(
            box.short_side,
            box.long_side,
            training and box.flip,
            box.one_based,
            box.pad_multiple if config.input.snaps else 1,
            box.aspects,
        )

    @classmethod
    def padding(cls, config: RpnConfig, *, training: bool) -> Padding:
        """See `Task.padding`."""
        box = config.input
        sides = box.short_side, box.long_side, box.pad_multiple
        return Padding(*sides, snap=config.input.snaps, aspects=box.aspects)

    @classmethod
    def resolve(cls, config: RpnConfig, begun: RpnConfig | None = None) -> RpnConfig:
        """See `resolve_backbone`."""
        return resolve_backbone(config, begun)

    @classmethod
    def notes(cls, train: ShardReader, val: ShardReader) -> list[str]:
        """See `Task.notes`."""
        return notes_on_no_objects(*(int(reader.class_images.sum()) for reader in (train, val)))

    @classmethod
    def table(cls, metrics: Mapping[str, float]) -> Table:
        """See `Task.table`."""
        return recall_table(metrics)

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """`objectness`, `box` and their sum `loss`, (B,) each."""
        output, shapes = model(batch.inputs, batch.targets["image_size"])
        return self._losses(output, shapes, batch)

    def records(self, model: nn.Module, batch: Batch) -> list[Record]:
        """Of each image: losses, its first proposals, and how well its N boxes are covered.

        `best` (N, CURVE_COUNTS) is the best IoU of the proposals, `best_grid` and `best_random`
        (N, COUNTS) those of the baselines; `proposal_boxes` (at most KEPT_PROPOSALS, 4) are shares
        of the image's width and height.
        """
        output, shapes = model(batch.inputs, batch.targets["image_size"])
        losses = {name: v.cpu() for name, v in self._losses(output, shapes, batch).items()}
        proposals = [
            Proposals(found.boxes.cpu(), found.scores.cpu())
            for found in self.propose(output, shapes, batch)
        ]
        targets = {name: target.cpu() for name, target in batch.targets.items()}
        indices = batch.indices.tolist()
        return [
            {
                **{name: float(values[i]) for name, values in losses.items()},
                **self._measure({name: t[i] for name, t in targets.items()}, found, indices[i]),
            }
            for i, found in enumerate(proposals)
        ]

    def propose(
        self, output: HeadOutput, shapes: FeatureShapes, batch: Batch
    ) -> Sequence[Proposals]:
        """Proposals of each image, best first, in pixels of the scaled image."""
        sizes = batch.targets["image_size"]
        return self._rpn.propose(output, shapes, batch.size, sizes, self._proposal_rule)

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """Recall and AR by count, by size, without difficult boxes; the same of two baselines."""
        columns = {
            name: torch.from_numpy(np.concatenate([np.asarray(r[name]) for r in records]))
            for name in ("best", "best_grid", "best_random", "areas", "difficult")
        }
        columns["best"] = columns["best"][:, [CURVE_COUNTS.index(count) for count in COUNTS]]
        table = proposal_recall(
            columns["best"], areas=columns["areas"], difficult=columns["difficult"]
        )
        for baseline in ("grid", "random"):
            rows = proposal_recall(columns[f"best_{baseline}"])
            table |= {f"{k}/{baseline}": v for k, v in rows.items() if k != "boxes"}
        means = {
            name: float(np.mean([record[name] for record in records]))
            for name in ("loss", "objectness", "box", "proposals")
        }
        return {**table, **means, "samples": float(len(records))}

    def frozen_features(self, config: RpnConfig) -> FrozenFeatures | None:
        """See `Task.frozen_features`."""
        settings, box = config.features, config.input
        device = next(self._model.parameters()).device.type
        if not keeps_features(settings.cache, snap=config.input.snaps, device=device):
            return None
        if not config.input.snaps:
            raise UserError(
                "features.cache=true keeps features of images, which padding would make depend on "
                "their batch: set input.snap=true, or features.cache=false"
            )
        short_side = config.data.short_side or 0
        # Millionths: the names of files are made of whole numbers.
        aspects = [round(1e6 * aspect) for aspect in box.aspects or ()]
        geometry = (box.short_side, box.long_side, box.pad_multiple, short_side, *aspects)
        return FrozenFeatures(self._model, settings, geometry, box.flip)

    def predictions(
        self, records: Sequence[Record], val: ShardReader, train: ShardReader
    ) -> RpnPredictions:
        """See `Task.predictions`."""
        boxes = [len(np.asarray(record["best"])) for record in records]
        proposals = [len(np.asarray(record["proposal_boxes"])) for record in records]
        images = np.arange(len(records))
        return RpnPredictions(
            classes=list(val.manifest.classes),
            keys=val.keys,
            losses=np.array([record["loss"] for record in records], dtype=np.float32),
            counts=np.array(CURVE_COUNTS),
            best=_joined(records, "best"),
            box_image=np.repeat(images, boxes),
            areas=_joined(records, "areas"),
            proposals=_joined(records, "proposal_boxes"),
            scores=_joined(records, "proposal_scores"),
            proposal_image=np.repeat(images, proposals),
            anchors=anchor_sizes(self.config.model.scales, self.config.model.ratios).numpy(),
            train_sizes=self.train_sizes(train),
        )

    def train_sizes(self, train: ShardReader) -> np.ndarray:
        """(B, 2) width and height of up to `SAMPLED_BOXES` train boxes, pixels of the input."""
        padding = self.padding(self.config, training=False)
        found = scaled_box_sizes(train.annotations, padding, one_based=self.one_based)
        # Evenly through the split, the same each time.
        kept = np.linspace(0, len(found) - 1, min(len(found), SAMPLED_BOXES)).astype(int)
        chosen: np.ndarray = found[kept]
        return chosen

    def pictures(
        self, loader: BatchLoader, indices: Sequence[int], *, drawn: int = KEPT_PROPOSALS
    ) -> list[Image.Image]:
        """See `proposal_overlays`."""
        return proposal_overlays(self, loader, indices, drawn=drawn)

    @property
    def one_based(self) -> bool:
        """See `Task.one_based`."""
        return bool(self.config.input.one_based)

    def input_example(self, batch: Batch) -> Batch:
        """See `Task.input_example`."""
        if self.frozen_features(self.config) is None:
            return batch
        with torch.no_grad():
            levels = self._model.eval().features(batch.inputs, batch.targets["image_size"])
        return replace(batch, inputs=tuple(level.to(STORED_DTYPE) for level in levels))

    def outputs(self, batch: Batch) -> list[tuple[str, str]]:
        """See `Task.outputs`."""
        head, levels = self.model(batch.inputs, batch.targets["image_size"])
        return [
            ("feature maps", ", ".join(f"{h} × {w}" for h, w in levels)),
            ("anchors", f"{head.objectness.shape[1]:,} an image"),
        ]

    @classmethod
    def weights_from(cls, config: RpnConfig) -> str:
        """See `Task.weights_from`."""
        source = config.model.classifier
        return super().weights_from(config) if source == "none" else source

    def answers(self, batch: Batch) -> list[Mapping[str, Any]]:
        """`boxes` (N, 4) xyxy in pixels of the stored image, best first, and `scores` (N,)."""
        sizes = batch.targets["image_size"]
        output, shapes = self.model(batch.inputs, sizes)
        # (height, width) twice reversed is (width, height, width, height): xyxy's order.
        factors = (batch.targets["stored_size"].cpu() / sizes.cpu()).flip(1).repeat(1, 2).numpy()
        return [
            {
                "boxes": found.boxes.cpu().numpy() * factor,
                "scores": found.scores.cpu().numpy(),
            }
            for found, factor in zip(self.propose(output, shapes, batch), factors, strict=True)
        ]

    def graph(self) -> ProposalGraph:
        """See `Task.graph`."""
        return ProposalGraph(self._model)

    def card(self) -> ModelCard:
        """See `Task.card`."""
        return rpn_card(self.config)

    def _losses(self, output: HeadOutput, shapes: FeatureShapes, batch: Batch) -> dict[str, Tensor]:
        losses = self._rpn.losses(
            HeadOutput(*(part.float() for part in output)),
            shapes,
            batch.size,
            batch.targets["image_size"],
            batch.targets["boxes"],
            batch.targets["box_mask"],
            batch.seeds,
        )
        return {
            "loss": losses.objectness + losses.box,
            "objectness": losses.objectness,
            "box": losses.box,
        }

    def _measure(
        self, targets: Mapping[str, Tensor], found: Proposals, sample: int
    ) -> Mapping[str, object]:
        """What recall needs of one image: IoUs in the scaled frame, areas in the stored one."""
        mask = targets["box_mask"]
        boxes = targets["boxes"][mask]
        scale = targets["image_size"] / targets["stored_size"]
        sides = boxes[:, 2:] - boxes[:, :2]
        height, width = targets["image_size"].tolist()
        size = torch.tensor([width, height, width, height])
        image = (sample, torch.cat([boxes.flatten(), size]).numpy().tobytes())
        if image not in self._baselines:
            self._baselines[image] = baseline_ious(boxes, width, height, seed=sample)
        return {
            "best": best_ious(found.boxes, boxes, CURVE_COUNTS).numpy(),
            **self._baselines[image],
            "areas": (sides.prod(dim=1) / scale.prod()).numpy(),
            "difficult": targets["difficult"][mask].numpy(),
            "proposals": len(found.boxes),
            "proposal_boxes": (found.boxes[:KEPT_PROPOSALS] / size).numpy(),
            "proposal_scores": found.scores[:KEPT_PROPOSALS].numpy(),
        }


@torch.no_grad()
def proposal_overlays(
    task: RpnTask, loader: BatchLoader, indices: Sequence[int], *, drawn: int = KEPT_PROPOSALS
) -> list[Image.Image]:
    """The `drawn` best proposals (red) and the boxes (green) of each image, as the network saw it.

    Runs on this process alone, on the device where the model is.
    """
    device = next(task.model.parameters()).device
    task.model.eval()
    classes = loader.dataset.reader.manifest.classes
    pictures = []
    for index, batch in zip(indices, loader.chosen(indices), strict=True):
        batch = batch.to(device)
        output, shapes = task.model(batch.inputs, batch.targets["image_size"])
        proposals = task.propose(output, shapes, batch)[0].boxes[:drawn]
        height, width = batch.targets["image_size"][0].tolist()
        pixels = batch.images[0, :, :height, :width].permute(1, 2, 0).cpu().numpy()
        records = loader.dataset.reader.annotations[index]
        pictures.append(
            draw_proposals(
                Image.fromarray(pixels),
                proposals.cpu().numpy(),
                batch.targets["boxes"][0][batch.targets["box_mask"][0]].cpu().numpy(),
                gt_labels=[classes[i] for i in records.boxes[:, 0]],
            )
        )
    return pictures


def _joined(records: Sequence[Record], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(record[name]) for record in records])
