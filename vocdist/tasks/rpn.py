"""The Region Proposal Network as a task: where the objects of an image are, of any class."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from vocdist.data.batch import Batch
from vocdist.metrics.proposals import COUNTS, best_ious, grid_boxes, proposal_recall, random_boxes
from vocdist.models.backbone import FrozenBackbone
from vocdist.models.layers import ImageNetPixels
from vocdist.models.rpn.head import HeadOutput
from vocdist.models.rpn.network import RegionProposalNetwork
from vocdist.models.rpn.proposals import Proposals
from vocdist.tasks.task import Record

FeatureShapes = list[tuple[int, int]]

# Numbers of proposals at which a record keeps each box's best IoU: the metrics' and those between.
CURVE_COUNTS = tuple(sorted({1, 2, 5, 10, 20, 30, 75, 150, 250, *COUNTS}))
# Proposals of an image that a record keeps: more than this many hide the image.
KEPT_PROPOSALS = 20


class ProposalModel(nn.Module):
    """From uint8 images to the head's output: pixels, frozen backbone, merged levels, RPN head."""

    def __init__(self, backbone: FrozenBackbone, rpn: RegionProposalNetwork, merged: int) -> None:
        """Several levels are merged top-down to `merged` channels each; one is taken as it is."""
        super().__init__()
        self.pixels = ImageNetPixels()
        self.backbone = backbone
        many = len(backbone.strides) > 1
        self.merge = FeaturePyramidNetwork(list(backbone.channels), merged) if many else None
        self.rpn = rpn

    def forward(
        self, inputs: Sequence[Tensor], image_sizes: Tensor
    ) -> tuple[HeadOutput, FeatureShapes]:
        """A batch's inputs, (B, 2) image sizes before padding -> output, (h, w) of the levels."""
        features = self.features(inputs, image_sizes)
        if self.merge is not None:
            merged = self.merge({str(i): level for i, level in enumerate(features)})
            features = list(merged.values())
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        return self.rpn(features), shapes

    def features(self, inputs: Sequence[Tensor], image_sizes: Tensor) -> list[Tensor]:
        """Levels (B, C_l, h_l, w_l) float32, of images (B, 3, H, W) uint8 or as stored."""
        if inputs[0].dtype != torch.uint8:
            return [level.float() for level in inputs]
        levels: list[Tensor] = self.backbone(self.pixels(inputs[0], image_sizes))
        return levels


class RpnTask:
    """Objectness and box losses; proposal recall."""

    # Steadier than recall at one IoU, which a few boxes near 0.5 sway.
    best_metric = "AR@200"
    headline: tuple[str, ...] = ("objectness", "box", "recall50@200", "AR@200")

    def __init__(self, model: ProposalModel) -> None:
        """Keep the model."""
        self.model: nn.Module = model
        self._rpn = model.rpn
        # One pass of NMS serves every count that is measured.
        self._baselines: dict[int, Mapping[str, np.ndarray]] = {}
        self._proposal_rule = replace(model.rpn.proposal_rule, post_nms_top_k=max(COUNTS))

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
        if sample not in self._baselines:
            self._baselines[sample] = _baselines(boxes, width, height, seed=sample)
        return {
            "best": best_ious(found.boxes, boxes, CURVE_COUNTS).numpy(),
            **self._baselines[sample],
            "areas": (sides.prod(dim=1) / scale.prod()).numpy(),
            "difficult": targets["difficult"][mask].numpy(),
            "proposals": len(found.boxes),
            "proposal_boxes": (found.boxes[:KEPT_PROPOSALS] / size).numpy(),
            "proposal_scores": found.scores[:KEPT_PROPOSALS].numpy(),
        }


def _baselines(boxes: Tensor, width: int, height: int, seed: int) -> Mapping[str, np.ndarray]:
    """Best IoU (N, counts) of boxes that nobody learned: the same in every epoch."""
    # A grid of k boxes is not the first k of a finer one: each count has its own.
    grids = [best_ious(grid_boxes(width, height, k), boxes, (k,)) for k in COUNTS]
    guesses = random_boxes(width, height, max(COUNTS), seed=seed)
    return {
        "best_grid": torch.cat(grids, dim=1).numpy(),
        "best_random": best_ious(guesses, boxes).numpy(),
    }
