"""Proposal recall: which share of the objects some proposal covers.

Two definitions. "Best IoU" counts an object as found where any of the first k proposals has
IoU >= t with it (the notebook's; Hosang et al. 2015, What makes for effective detection proposals,
section 4). "One to one" is COCO's: proposals, best score first, each take the best object that is
still free, so one proposal cannot find two objects; it is at most the first. AR is the mean recall
over IoU 0.50, 0.55, ... 0.95. Both give hits (N, counts, thresholds) that `recall_table` sums up.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

COUNTS = (50, 100, 200, 300)
IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
# COCO's object sizes, by area in pixels of the original image.
SMALL_AREA, LARGE_AREA = 32.0**2, 96.0**2


def best_ious(proposal_boxes: Tensor, gt_boxes: Tensor, counts: Sequence[int] = COUNTS) -> Tensor:
    """Best IoU of each gt box (G, 4) among the first k proposals (K, 4) -> (G, counts) float32.

    Proposals are sorted, best first; 0 where there are none. The result is on the CPU.
    """
    if len(proposal_boxes) == 0:
        return torch.zeros(len(gt_boxes), len(counts))
    best = _iou(gt_boxes, proposal_boxes).cummax(dim=1).values
    columns = torch.tensor([min(count, len(proposal_boxes)) - 1 for count in counts])
    return best[:, columns].float()


def one_to_one_hits(
    proposal_boxes: Tensor,
    gt_boxes: Tensor,
    counts: Sequence[int] = COUNTS,
    *,
    ignored: Tensor | None = None,
) -> Tensor:
    """COCO's matching -> whether each gt box is found, (G, counts, thresholds) bool.

    Agrees with pycocotools (`COCOeval`, no categories). `ignored` (G,) boxes may take a proposal
    that fits no other box, as COCO treats sizes outside the range in question; leave their rows
    out of the recall.
    """
    thresholds = np.asarray(IOU_THRESHOLDS)[:, None]
    num_gt = len(gt_boxes)
    # Which proposal took the box: with it, one pass answers for every count.
    taken_by = np.full((len(IOU_THRESHOLDS), num_gt), np.inf)
    iou = _iou(proposal_boxes, gt_boxes).numpy()
    # Above any IoU, so that a regular box always goes before an ignored one.
    bonus = np.full(num_gt, 2.0)
    if ignored is not None:
        bonus[np.asarray(ignored.cpu())] = 0.0
    rows = np.arange(len(IOU_THRESHOLDS))
    for rank in np.flatnonzero((iou >= IOU_THRESHOLDS[0]).any(axis=1)):
        free = (iou[rank] >= thresholds) & np.isinf(taken_by)
        fit = np.where(free, iou[rank] + bonus, -1.0)
        # Of equals the last, as COCO.
        chosen = num_gt - 1 - fit[:, ::-1].argmax(axis=1)
        takes = free[rows, chosen]
        taken_by[rows[takes], chosen[takes]] = rank
    hits = taken_by.T[:, None, :] < np.asarray(counts)[None, :, None]
    return torch.from_numpy(hits)


def proposal_recall(
    best: Tensor,
    *,
    counts: Sequence[int] = COUNTS,
    areas: Tensor | None = None,
    difficult: Tensor | None = None,
) -> dict[str, float]:
    """Recall by best IoU from `best_ious` of all images' boxes, (N, counts) -> `recall_table`."""
    thresholds = torch.tensor(IOU_THRESHOLDS, dtype=best.dtype, device=best.device)
    return recall_table(
        best[:, :, None] >= thresholds, counts=counts, areas=areas, difficult=difficult
    )


def recall_table(
    hits: Tensor,
    *,
    counts: Sequence[int] = COUNTS,
    areas: Tensor | None = None,
    difficult: Tensor | None = None,
) -> dict[str, float]:
    """Sum up hits (N, counts, thresholds) -> `recall50@100`, `AR@100`, ..., `boxes`.

    With `areas` (N,) in original pixels also `.../small`, `/medium`, `/large`, and with `difficult`
    (N,) bool `.../without_difficult`. A group that has no boxes is left out; of no boxes at all
    there is no recall, only `boxes`.
    """
    groups: dict[str, Tensor] = {}
    if areas is not None:
        groups["/small"] = areas < SMALL_AREA
        groups["/medium"] = (areas >= SMALL_AREA) & (areas < LARGE_AREA)
        groups["/large"] = areas >= LARGE_AREA
    if difficult is not None:
        groups["/without_difficult"] = ~difficult.bool()
    table = _recalls(hits, counts, "")
    for suffix, members in groups.items():
        if members.any():
            table |= _recalls(hits[members], counts, suffix)
    return table


def grid_boxes(width: int, height: int, count: int) -> Tensor:
    """Baseline: a uniform grid of `count` boxes over the image -> (count, 4), coarse to fine.

    Level n = 1, 2, 3, ... has n x n boxes of 2 / (n + 1) of the image's sides, each half over its
    neighbour; the last level is thinned evenly to what is missing.
    """
    levels: list[Tensor] = []
    missing, per_side = count, 1
    while missing > 0:
        side = 2 / (per_side + 1)
        start = torch.arange(per_side, dtype=torch.float64) * (side / 2)
        y, x = torch.meshgrid(start, start, indexing="ij")
        level = torch.stack([x, y, x + side, y + side], dim=-1).reshape(-1, 4)
        if missing < len(level):
            level = level[torch.linspace(0, len(level) - 1, missing).round().long()]
        levels.append(level)
        missing, per_side = missing - len(level), per_side + 1
    boxes = torch.cat(levels) if levels else torch.zeros(0, 4, dtype=torch.float64)
    return (boxes * torch.tensor([width, height, width, height])).float()


def random_boxes(width: int, height: int, count: int, seed: int) -> Tensor:
    """Baseline: boxes between two uniform random points of the image -> (count, 4)."""
    points = np.random.default_rng(seed).random((2, count, 2)) * (width, height)
    boxes = np.concatenate([points.min(axis=0), points.max(axis=0)], axis=1)
    return torch.from_numpy(boxes).float()


def baseline_ious(gt_boxes: Tensor, width: int, height: int, seed: int) -> Mapping[str, np.ndarray]:
    """Best IoU of gt boxes (G, 4) with boxes that nobody learned, by name -> (G, COUNTS) each.

    `best_grid`: with the grid of as many boxes; `best_random`: with the first of the random ones.
    """
    # A grid of k boxes is not the first k of a finer one: each count has its own.
    grids = [best_ious(grid_boxes(width, height, k), gt_boxes, (k,)) for k in COUNTS]
    guesses = random_boxes(width, height, max(COUNTS), seed=seed)
    return {
        "best_grid": torch.cat(grids, dim=1).numpy(),
        "best_random": best_ious(guesses, gt_boxes).numpy(),
    }


def _iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU (M, N) in float64 on the CPU, as pycocotools; 0 where both boxes have no area."""
    iou: Tensor = box_iou(boxes.detach().cpu().double(), others.detach().cpu().double())
    return iou.nan_to_num(nan=0.0)


def _recalls(hits: Tensor, counts: Sequence[int], suffix: str) -> dict[str, float]:
    table = {f"boxes{suffix}": float(len(hits))}
    if not len(hits):
        return table
    recall = hits.double().mean(dim=0)
    for count, by_threshold in zip(counts, recall, strict=True):
        table[f"recall50@{count}{suffix}"] = float(by_threshold[0])
        table[f"AR@{count}{suffix}"] = float(by_threshold.mean())
    return table
