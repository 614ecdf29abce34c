"""The recipe's own functions, rewritten as the reference that ours must reproduce.

One difference is meant: the notebook clips to [0, side - 1], ours to the half-open [0, side].
Its clipping comes out of ours when the image is said to be one pixel smaller.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.ops import nms

from vocdist.models.layers import random_keys
from vocdist.models.rpn.anchors import clip_to_images, decode, encode, grid_anchors
from vocdist.models.rpn.assignment import match_anchors, sample_anchors
from vocdist.models.rpn.network import (
    AnchorRule,
    MatchingRule,
    RegionProposalNetwork,
    SamplingRule,
)
from vocdist.models.rpn.proposals import select_proposals

SCALES, RATIOS = (32.0, 64.0, 128.0), (0.5, 1.0, 2.0)
HEIGHT, WIDTH, SHAPE = 200, 267, (7, 9)
ONE_LESS = torch.tensor([[HEIGHT - 1, WIDTH - 1]])


def notebook_anchors():
    (rows, columns), step_y, step_x = SHAPE, HEIGHT / SHAPE[0], WIDTH / SHAPE[1]
    x = torch.arange(columns).float() * step_x + step_x / 2
    y = torch.arange(rows).float() * step_y + step_y / 2
    centres = torch.stack([x[None].expand(rows, columns), y[:, None].expand(rows, columns)], -1)
    sides = torch.tensor(
        [(math.sqrt(s * s / r), math.sqrt(s * s / r) * r) for s in SCALES for r in RATIOS]
    )
    centres = centres.reshape(-1, 1, 2)
    anchors = torch.cat([centres - sides / 2, centres + sides / 2], 2).reshape(-1, 4)
    anchors[:, 0::2].clamp_(0, WIDTH - 1)
    anchors[:, 1::2].clamp_(0, HEIGHT - 1)
    return anchors


def notebook_iou(boxes, others):
    area = (boxes[:, 2] - boxes[:, 0]).clamp(0) * (boxes[:, 3] - boxes[:, 1]).clamp(0)
    other = (others[:, 2] - others[:, 0]).clamp(0) * (others[:, 3] - others[:, 1]).clamp(0)
    low = torch.max(boxes[:, None, :2], others[:, :2])
    shared = (torch.min(boxes[:, None, 2:], others[:, 2:]) - low).clamp(0).prod(dim=2)
    return shared / (area[:, None] + other - shared + 1e-6)


def notebook_centres(boxes):
    width, height = (boxes[:, 2] - boxes[:, 0]).clamp(1.0), (boxes[:, 3] - boxes[:, 1]).clamp(1.0)
    return boxes[:, 0] + width / 2, boxes[:, 1] + height / 2, width, height


def notebook_encode(anchors, boxes):
    (xa, ya, wa, ha), (x, y, w, h) = notebook_centres(anchors), notebook_centres(boxes)
    return torch.stack([(x - xa) / wa, (y - ya) / ha, torch.log(w / wa), torch.log(h / ha)], 1)


def notebook_decode(anchors, deltas):
    xa, ya, wa, ha = notebook_centres(anchors)
    x, y = deltas[:, 0] * wa + xa, deltas[:, 1] * ha + ya
    w, h = torch.exp(deltas[:, 2]) * wa, torch.exp(deltas[:, 3]) * ha
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


def notebook_labels(anchors, gt):
    """Before its sampling: labels and each anchor's box."""
    iou = notebook_iou(anchors, gt)
    best, matched = iou.max(1)
    labels = torch.full((len(anchors),), -1)
    labels[best < 0.3] = 0
    labels[best >= 0.7] = 1
    labels[(iou == iou.max(0)[0][None]).any(1)] = 1
    return labels, matched


def notebook_proposals(anchors, logits, deltas, threshold, keep):
    scores = torch.sigmoid(logits)
    above = scores >= threshold
    scores, anchors, deltas = scores[above], anchors[above], deltas[above]
    scores, order = scores.topk(min(1200, len(scores)))
    boxes = notebook_decode(anchors[order], deltas[order])
    boxes[:, 0::2].clamp_(0, WIDTH - 1)
    boxes[:, 1::2].clamp_(0, HEIGHT - 1)
    large = ((boxes[:, 2:] - boxes[:, :2]) >= 16).all(1)
    boxes, scores = boxes[large], scores[large]
    kept = nms(boxes, scores, 0.7)[:keep]
    return boxes[kept], scores[kept]


def our_anchors():
    grid = grid_anchors([SHAPE], (HEIGHT, WIDTH), (SCALES,), RATIOS, torch.device("cpu"))
    return clip_to_images(grid, ONE_LESS)


def random_gt(seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(5, 2, generator=generator) * 130
    return torch.cat([corner, corner + torch.rand(5, 2, generator=generator) * 110 + 8], 1)


def test_anchors():
    assert torch.equal(our_anchors()[0], notebook_anchors())


@pytest.mark.parametrize("seed", range(8))
def test_labels_and_their_boxes(seed):
    anchors, gt = notebook_anchors(), random_gt(seed)
    if seed >= 6:
        gt[0] = torch.tensor([900.0, 900, 950, 950])  # the flaw: everything becomes positive
    expected, expected_gt = notebook_labels(anchors, gt)
    labels, matched_gt = match_anchors(
        anchors[None],
        gt[None],
        torch.ones(1, 5, dtype=torch.bool),
        torch.ones(1, len(anchors), dtype=torch.bool),
        best_anchor_min_iou=0.0,
    )
    assert (expected == 1).all() == (seed >= 6)
    assert labels[0].tolist() == expected.tolist()
    assert torch.equal(matched_gt[0], expected_gt)


def test_box_coding():
    anchors, boxes = notebook_anchors()[:40], random_gt(0).repeat(8, 1)
    boxes[0, 2:] = boxes[0, :2] + 0.25
    deltas = notebook_encode(anchors, boxes)
    assert_close(encode(boxes, anchors), deltas)
    assert_close(decode(deltas, anchors), notebook_decode(anchors, deltas))


def test_sampling_counts():
    labels = torch.tensor([[1] * 300 + [0] * 700 + [-1] * 50, [1] * 3 + [0] * 100 + [-1] * 947])
    keys = random_keys(torch.tensor([1, 2]), 1050)
    sampled = sample_anchors(labels.to(torch.int8), keys, max_positives=256, max_negatives=256)
    assert (sampled == 1).sum(dim=1).tolist() == [256, 3]
    assert (sampled == 0).sum(dim=1).tolist() == [256, 100]


@pytest.mark.parametrize("threshold, keep", [(0.7, 200), (0.0, 100), (0.0, 300)])
def test_proposals(threshold, keep):
    torch.manual_seed(3)
    anchors = notebook_anchors()
    logits, deltas = torch.randn(len(anchors)) * 2, torch.randn(len(anchors), 4) * 0.3
    boxes, scores = notebook_proposals(anchors, logits, deltas, threshold, keep)
    ours = select_proposals(
        logits[None],
        deltas[None],
        anchors,
        ONE_LESS,
        [len(anchors)],
        post_nms_top_k=keep,
        score_threshold=threshold,
    )[0]
    assert len(boxes) > 50
    assert_close(ours.boxes, boxes, rtol=1e-5, atol=1e-3)
    assert_close(ours.scores, scores)


def test_a_whole_training_step():
    """Losses of one unpadded image, with every anchor sampled."""
    torch.manual_seed(4)
    model = RegionProposalNetwork(
        16,
        AnchorRule(scales_per_level=(SCALES,), ratios=RATIOS),
        matching=MatchingRule(best_anchor_min_iou=0.0),
        sampling=SamplingRule(max_positives=1000, max_negatives=1000, max_total=None),
    )
    gt = random_gt(1)
    output = model([torch.randn(1, 16, *SHAPE)])
    losses = model.losses(
        output,
        [SHAPE],
        (HEIGHT, WIDTH),
        ONE_LESS,
        gt[None],
        torch.ones(1, 5, dtype=torch.bool),
        torch.tensor([0]),
    )
    anchors = notebook_anchors()
    labels, matched_gt = notebook_labels(anchors, gt)
    sampled, positive = labels != -1, labels == 1
    targets = notebook_encode(anchors[positive], gt[matched_gt[positive]])
    entropy = F.binary_cross_entropy_with_logits(
        output.objectness[0][sampled], labels[sampled].float()
    )
    distance = F.smooth_l1_loss(output.deltas[0][positive], targets, beta=1 / 9)
    assert_close(losses.objectness[0], entropy)
    assert_close(losses.box[0], distance)
