import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch.testing import assert_close
from torchvision.ops import box_iou

from vocdist.metrics.proposals import (
    COUNTS,
    IOU_THRESHOLDS,
    LARGE_AREA,
    SMALL_AREA,
    best_ious,
    grid_boxes,
    one_to_one_hits,
    proposal_recall,
    random_boxes,
    recall_table,
)


def image(seed: int, num_gt: int = 6, num_proposals: int = 350):
    """Boxes of all sizes; proposals are noisy copies of them and noise -> (proposals, gt)."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 300, (num_gt, 2))
    gt = np.concatenate([corner, corner + rng.uniform(10, 180, (num_gt, 2))], axis=1)
    copies = gt[rng.integers(num_gt, size=num_proposals)]
    noise = rng.normal(0, 1, (num_proposals, 4)) * rng.uniform(0, 40, (num_proposals, 1))
    noisy = copies + noise
    boxes = np.concatenate([noisy[:, :2], np.maximum(noisy[:, 2:], noisy[:, :2] + 2)], axis=1)
    # Whole pixels: IoU ties and exact thresholds occur.
    return torch.from_numpy(boxes.round()).float(), torch.from_numpy(gt.round()).float()


def area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def xywh(box):
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def coco_recall(images, counts=COUNTS):
    """pycocotools' recall -> (thresholds, area ranges all / small / medium / large, counts)."""
    truth, found, infos = [], [], []
    for number, (boxes, gt) in enumerate(images, start=1):
        infos.append({"id": number})
        for box in gt:
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": xywh(box),
                    "area": float(area(box[None])),
                    "iscrowd": 0,
                }
            )
        found += [
            {"image_id": number, "category_id": 1, "bbox": xywh(box), "score": 1 - rank / 1000}
            for rank, box in enumerate(boxes)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": infos, "annotations": truth, "categories": [{"id": 1}]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = list(counts)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["recall"][:, 0]


class TestBestIous:
    def test_by_hand(self):
        gt = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
        proposals = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 8], [100, 100, 110, 110]])
        assert_close(
            best_ious(proposals, gt, counts=(1, 2, 3, 10)),
            torch.tensor([[0.5, 0.8, 0.8, 0.8], [0, 0, 1, 1]]),
        )

    def test_against_the_matrix(self):
        proposals, gt = image(0)
        best = best_ious(proposals, gt)
        for column, count in enumerate(COUNTS):
            assert_close(best[:, column], box_iou(gt, proposals[:count]).max(dim=1).values)

    def test_nothing_proposed_and_nothing_to_find(self):
        proposals, gt = image(0)
        assert torch.equal(best_ious(torch.zeros(0, 4), gt), torch.zeros(6, 4))
        assert best_ious(proposals, torch.zeros(0, 4)).shape == (0, 4)
        assert not one_to_one_hits(torch.zeros(0, 4), gt).any()
        assert one_to_one_hits(proposals, torch.zeros(0, 4)).shape == (0, 4, 10)

    def test_boxes_without_area(self):
        nothing = torch.zeros(2, 4)
        assert torch.equal(best_ious(nothing, nothing, counts=(2,)), torch.zeros(2, 1))


class TestProposalRecall:
    def test_by_hand(self):
        best = torch.tensor([[0.0, 0.5], [0.49, 0.72], [0.95, 0.95], [1.0, 1.0]])
        areas = torch.tensor([SMALL_AREA - 1, SMALL_AREA, LARGE_AREA, LARGE_AREA])
        difficult = torch.tensor([True, False, False, False])
        table = proposal_recall(best, counts=(100, 200), areas=areas, difficult=difficult)
        assert table["boxes"] == 4
        assert table["recall50@100"] == pytest.approx(0.5)
        assert table["recall50@200"] == pytest.approx(1.0)
        assert table["AR@100"] == pytest.approx((10 + 10) / 40)
        assert table["AR@200"] == pytest.approx((1 + 5 + 10 + 10) / 40)
        assert table["AR@200/small"] == pytest.approx(1 / 10)
        assert table["AR@200/medium"] == pytest.approx(5 / 10)
        assert table["AR@200/large"] == pytest.approx(1)
        assert table["boxes/large"] == 2
        assert table["recall50@100/without_difficult"] == pytest.approx(2 / 3)
        assert table["boxes/without_difficult"] == 3

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_iou_at_the_threshold_counts(self, dtype):
        best = torch.tensor(IOU_THRESHOLDS, dtype=dtype)[:, None]
        table = proposal_recall(best, counts=(1,))
        assert table["AR@1"] == pytest.approx(sum(range(1, 11)) / 100)

    def test_exact_ious_of_boxes_reach_their_threshold(self):
        # 10 x 20 boxes that share n of 20 rows: IoU is n / 20.
        gt = torch.tensor([[0.0, 0, 10, 20]])
        for rows in range(10, 20):
            best = best_ious(torch.tensor([[0.0, 0, 10, rows]]), gt, counts=(1,))
            assert proposal_recall(best, counts=(1,))["AR@1"] == pytest.approx((rows - 9) / 10)

    def test_without_boxes_there_is_no_recall(self):
        empty = torch.zeros(0, 4)
        table = proposal_recall(empty, areas=torch.zeros(0), difficult=torch.zeros(0))
        assert table == {"boxes": 0.0}

    def test_empty_groups_are_left_out(self):
        table = proposal_recall(torch.ones(1, 4), areas=torch.tensor([LARGE_AREA]))
        assert {key.partition("/")[2] for key in table} == {"", "large"}


class TestAgreesWithPycocotools:
    def test_every_count_and_threshold(self):
        images = [image(seed, num_gt=1 + seed % 9) for seed in range(12)]
        hits = torch.cat([one_to_one_hits(*boxes) for boxes in images])
        expected = torch.from_numpy(coco_recall(images))
        assert 0.2 < expected.mean() < 0.98
        assert_close(hits.double().mean(dim=0).T, expected[:, 0])
        table = recall_table(hits)
        assert table["AR@200"] == pytest.approx(float(expected[:, 0, 2].mean()))
        assert table["recall50@100"] == pytest.approx(float(expected[0, 0, 1]))

    def test_every_size(self):
        images = [image(seed, num_gt=8) for seed in range(8)]
        expected = torch.from_numpy(coco_recall(images))
        limits = [(0, SMALL_AREA), (SMALL_AREA, LARGE_AREA), (LARGE_AREA, 1e10)]
        for column, (low, high) in enumerate(limits, start=1):
            hits = []
            for boxes, gt in images:
                outside = (area(gt) < low) | (area(gt) > high)
                hits.append(one_to_one_hits(boxes, gt, ignored=outside)[~outside])
            assert_close(torch.cat(hits).double().mean(dim=0).T, expected[:, column])

    def test_best_iou_recall_is_the_same_where_boxes_stand_apart(self):
        gt = torch.tensor([[0.0, 0, 60, 60], [200, 0, 300, 100], [0, 200, 40, 300]])
        rng = np.random.default_rng(0)
        proposals = gt.repeat(60, 1) + torch.from_numpy(rng.normal(0, 15, (180, 4))).float()
        best = best_ious(proposals, gt)[:, :, None] >= torch.tensor(IOU_THRESHOLDS)
        assert torch.equal(best, one_to_one_hits(proposals, gt))

    def test_one_proposal_finds_two_boxes_by_best_iou_alone(self):
        gt = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 90]])
        proposal = torch.tensor([[0.0, 0, 100, 95]])
        assert proposal_recall(best_ious(proposal, gt))["recall50@50"] == 1
        assert recall_table(one_to_one_hits(proposal, gt))["recall50@50"] == 0.5

    @settings(deadline=None, max_examples=15)
    @given(st.integers(0, 10_000))
    def test_one_to_one_is_never_above_best_iou(self, seed):
        proposals, gt = image(seed, num_gt=5, num_proposals=60)
        best = best_ious(proposals, gt)[:, :, None] >= torch.tensor(IOU_THRESHOLDS)
        assert (one_to_one_hits(proposals, gt) <= best).all()


class TestBaselines:
    @pytest.mark.parametrize("count", [0, 1, 5, 6, 50, 100, 200, 300])
    @pytest.mark.parametrize("make", [grid_boxes, lambda *args: random_boxes(*args, seed=3)])
    def test_exactly_count_boxes_within_the_image(self, make, count):
        boxes = make(500, 375, count)
        assert boxes.shape == (count, 4) and boxes.dtype == torch.float32
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= torch.tensor([500, 375]) + 1e-3).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()

    def test_grid_by_hand(self):
        boxes = grid_boxes(90, 60, 5)
        expected = [[0, 0, 90, 60], [0, 0, 60, 40], [30, 0, 90, 40], [0, 20, 60, 60]]
        assert_close(boxes, torch.tensor([*expected, [30, 20, 90, 60]]).float())

    def test_random_boxes_are_a_function_of_the_seed(self):
        assert torch.equal(random_boxes(50, 40, 9, 1), random_boxes(50, 40, 9, 1))
        assert not torch.equal(random_boxes(50, 40, 9, 1), random_boxes(50, 40, 9, 2))

    def test_large_objects_are_within_reach_of_the_grid(self):
        gt = torch.tensor([[100.0, 80, 400, 300]])
        assert best_ious(grid_boxes(500, 375, 200), gt, counts=(200,)).item() > 0.7
