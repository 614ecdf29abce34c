import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from vocdist.models.layers import random_keys
from vocdist.models.rpn.assignment import (
    IGNORE,
    NEGATIVE,
    POSITIVE,
    match_anchors,
    pairwise_iou,
    sample_anchors,
)


def random_boxes(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(*shape, 2, generator=generator) * 100
    sides = torch.rand(*shape, 2, generator=generator) * 60 + 5
    return torch.cat([corner, corner + sides], dim=-1)


def match(anchors, gt_boxes, **rule):
    """One image, all boxes real, all anchors valid."""
    return match_anchors(
        anchors[None],
        gt_boxes[None],
        torch.ones(1, len(gt_boxes), dtype=torch.bool),
        torch.ones(1, len(anchors), dtype=torch.bool),
        **rule,
    )


class TestPairwiseIou:
    def test_by_hand(self):
        boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10]])
        gt = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
        assert_close(pairwise_iou(boxes, gt), torch.tensor([[1, 0], [50 / 150, 0]]))

    def test_batched_equals_torchvision(self):
        boxes, gt = random_boxes(3, 40, seed=0), random_boxes(3, 7, seed=1)
        assert torch.equal(pairwise_iou(boxes, gt), box_iou(boxes, gt))

    def test_boxes_without_area_overlap_nothing(self):
        boxes = torch.tensor([[0.0, 0, 0, 0], [3, 3, 3, 9], [0, 0, 10, 10]])
        assert_close(pairwise_iou(boxes, boxes), torch.diag(torch.tensor([0.0, 0, 1])))


class TestMatchAnchors:
    anchors = torch.tensor(
        [
            [0.0, 0, 10, 10],  # IoU 1 with box 0
            [0, 0, 10, 7],  # 0.7 with box 0
            [0, 0, 10, 5],  # 0.5 with box 0: between the thresholds
            [0, 0, 10, 2],  # 0.2 with box 0
            [50, 50, 60, 60],  # 0.25 with box 1, its best
            [50, 70, 60, 80],  # touches nothing
        ]
    )
    gt = torch.tensor([[0.0, 0, 10, 10], [50, 50, 70, 70]])

    def test_by_hand(self):
        labels, matched_gt = match(self.anchors, self.gt)
        assert labels.tolist() == [[POSITIVE, POSITIVE, IGNORE, NEGATIVE, POSITIVE, NEGATIVE]]
        assert labels.dtype == torch.int8
        assert matched_gt[0, :5].tolist() == [0, 0, 0, 0, 1]

    def test_best_anchor_rule_can_be_off_or_stricter(self):
        for rule in (None, 0.26):
            labels, _ = match(self.anchors, self.gt, best_anchor_min_iou=rule)
            assert labels[0, 4] == NEGATIVE

    def test_ties_for_best_are_all_positive(self):
        twins = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 40, 10, 50]])
        labels, _ = match(twins, torch.tensor([[5.0, 0, 15, 10]]))
        assert labels.tolist() == [[POSITIVE, POSITIVE, NEGATIVE]]

    def test_box_that_touches_no_anchor_is_the_notebooks_flaw_not_ours(self):
        lonely = torch.tensor([[200.0, 200, 210, 210]])
        ours, _ = match(self.anchors, lonely)
        notebook, _ = match(self.anchors, lonely, best_anchor_min_iou=0.0)
        assert (ours == NEGATIVE).all()
        assert (notebook == POSITIVE).all()

    def test_forced_anchor_keeps_its_own_best_box(self):
        # The anchor is the only one near, so it is the best of both boxes; it overlaps box 1 more.
        anchor = torch.tensor([[0.0, 0, 10, 10]])
        gt = torch.tensor([[8.0, 8, 18, 18], [5.0, 0, 15, 10]])
        labels, matched_gt = match(anchor, gt)
        assert (labels.item(), matched_gt.item()) == (POSITIVE, 1)

    def test_padded_boxes_and_invalid_anchors_match_nothing(self):
        gt = torch.stack([self.gt, self.gt.flip(0)])
        mask = torch.tensor([[True, False], [False, False]])
        valid = torch.tensor([[False, True, True, True, True, True], [True] * 5 + [False]])
        labels, matched_gt = match_anchors(
            self.anchors.expand(2, -1, -1), gt, mask, valid, best_anchor_min_iou=0.0
        )
        # With its better anchor on padding, the 0.7 one is what box 0 has.
        assert labels[0].tolist() == [IGNORE, POSITIVE, IGNORE, NEGATIVE, NEGATIVE, NEGATIVE]
        assert matched_gt[0, 1:].tolist() == [0] * 5
        assert labels[1].tolist() == [NEGATIVE] * 5 + [IGNORE]

    @pytest.mark.parametrize("num_gt", [0, 3])
    def test_image_without_boxes_is_all_background(self, num_gt):
        labels, matched_gt = match_anchors(
            self.anchors[None],
            torch.zeros(1, num_gt, 4),
            torch.zeros(1, num_gt, dtype=torch.bool),
            torch.ones(1, 6, dtype=torch.bool),
            best_anchor_min_iou=0.0,
        )
        assert labels.tolist() == [[NEGATIVE] * 6]
        assert matched_gt.shape == (1, 6)

    def test_box_below_a_pixel_still_has_its_best_anchor(self):
        labels, _ = match(self.anchors, torch.tensor([[52.0, 52, 52.3, 52.4]]))
        assert labels.tolist() == [[NEGATIVE] * 4 + [POSITIVE, NEGATIVE]]

    @settings(deadline=None, max_examples=30)
    @given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 8))
    def test_agrees_with_torchvision_matcher(self, seed, num_anchors, num_gt):
        anchors, gt = random_boxes(num_anchors, seed=seed), random_boxes(num_gt, seed=seed + 1)
        matches = Matcher(0.5, 0.3, allow_low_quality_matches=True)(box_iou(gt, anchors))
        labels, matched_gt = match(
            anchors, gt, positive_iou=0.5, negative_iou=0.3, best_anchor_min_iou=0.0
        )
        theirs = torch.where(matches >= 0, POSITIVE, torch.where(matches == -1, NEGATIVE, IGNORE))
        assert labels[0].tolist() == theirs.tolist()
        positive = matches >= 0
        assert torch.equal(matched_gt[0][positive], matches[positive])


class TestSampleAnchors:
    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(st.sampled_from([POSITIVE, NEGATIVE, IGNORE]), min_size=1, max_size=80),
        st.integers(0, 1000),
    )
    def test_counts_of_both_rules(self, labels, seed):
        labels = torch.tensor([labels], dtype=torch.int8)
        keys = random_keys(torch.tensor([seed]), labels.shape[1])
        positives = int((labels == POSITIVE).sum())
        negatives = int((labels == NEGATIVE).sum())

        notebook = sample_anchors(labels, keys, max_positives=10, max_negatives=20)
        assert (notebook == POSITIVE).sum() == min(positives, 10)
        assert (notebook == NEGATIVE).sum() == min(negatives, 20)

        balanced = sample_anchors(labels, keys, max_positives=8, max_negatives=16, max_total=16)
        ours = int((balanced == POSITIVE).sum()), int((balanced == NEGATIVE).sum())
        theirs = BalancedPositiveNegativeSampler(16, 0.5)([labels[0]])
        assert ours == (int(theirs[0][0].sum()), int(theirs[1][0].sum()))
        for sampled in (notebook, balanced):
            assert ((sampled == labels) | (sampled == IGNORE)).all()
            assert sampled.dtype == torch.int8

    def test_takes_the_lowest_keys(self):
        labels = torch.tensor([[1, 1, 1, 0, 0, 0, -1]], dtype=torch.int8)
        keys = torch.tensor([[0.9, 0.1, 0.5, 0.0, 0.99, 0.2, 0.05]])
        sampled = sample_anchors(labels, keys, max_positives=2, max_negatives=1)
        assert sampled.tolist() == [[-1, 1, 1, 0, -1, -1, -1]]

    def test_ragged_batch_equals_each_image_alone(self):
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(-1, 2, (6, 50), generator=generator).to(torch.int8)
        labels[1], labels[2], labels[3] = IGNORE, NEGATIVE, POSITIVE
        keys = random_keys(torch.arange(6), 50)
        limits = {"max_positives": 5, "max_negatives": 10, "max_total": 10}
        together = sample_anchors(labels, keys, **limits)
        for image in range(6):
            one = slice(image, image + 1)
            assert torch.equal(together[one], sample_anchors(labels[one], keys[one], **limits))

    def test_every_candidate_is_as_likely_as_any_as_in_torchvision(self):
        torch.manual_seed(0)
        draws = 3000
        labels = torch.tensor([1] * 6 + [0] * 14 + [-1] * 4, dtype=torch.int8)
        sampled = sample_anchors(
            labels.expand(draws, -1),
            random_keys(torch.arange(draws), len(labels)),
            max_positives=4,
            max_negatives=8,
            max_total=8,
        )
        ours = (sampled != IGNORE).float().mean(dim=0)
        positive, negative = BalancedPositiveNegativeSampler(8, 0.5)([labels] * draws)
        theirs = (torch.stack(positive) + torch.stack(negative)).float().mean(dim=0)
        expected = torch.tensor([4 / 6] * 6 + [4 / 14] * 14 + [0.0] * 4)
        # 0.009 is a standard deviation.
        assert_close(ours, expected, rtol=0, atol=0.04)
        assert_close(theirs, expected, rtol=0, atol=0.04)
