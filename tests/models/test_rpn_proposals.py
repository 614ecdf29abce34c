import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRpn
from torchvision.ops import box_iou

from vocdist.models.rpn.anchors import centres_inside, grid_anchors
from vocdist.models.rpn.proposals import select_proposals

SIZES = torch.tensor([[128, 160], [100, 150]])
SHAPES = [(8, 10), (4, 5)]
LEVEL_SIZES = [8 * 10 * 2, 4 * 5 * 2]


def random_case(seed: int = 0, images: int = 2):
    generator = torch.Generator().manual_seed(seed)
    anchors = grid_anchors(SHAPES, (128, 160), ((24, 40), (64, 90)), (1.0,), torch.device("cpu"))
    objectness = torch.randn(images, len(anchors), generator=generator) * 3
    pred_deltas = torch.randn(images, len(anchors), 4, generator=generator) * 0.5
    return objectness, pred_deltas, anchors


@pytest.mark.parametrize("top_k", [30, 1000])
@pytest.mark.parametrize("score_threshold", [None, 0.7])
def test_agrees_with_torchvision(top_k, score_threshold):
    objectness, pred_deltas, anchors = random_case()
    counts = {"training": 0, "testing": top_k}
    kept = {"training": 0, "testing": 25}
    rpn = TorchvisionRpn(
        None, None, 0.7, 0.3, 256, 0.5, counts, kept, 0.7, score_threshold or 0.0
    ).eval()
    rpn.min_size = 16.0
    boxes = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(pred_deltas.flatten(0, 1), [anchors] * 2)
    theirs = rpn.filter_proposals(boxes.reshape(2, -1, 4), objectness, SIZES.tolist(), LEVEL_SIZES)
    ours = select_proposals(
        objectness,
        pred_deltas,
        anchors,
        SIZES,
        LEVEL_SIZES,
        pre_nms_top_k=top_k,
        post_nms_top_k=25,
        score_threshold=score_threshold,
    )
    for proposals, their_boxes, their_scores in zip(ours, *theirs, strict=True):
        assert len(their_scores) > 5
        assert_close(proposals.boxes, their_boxes, rtol=1e-5, atol=1e-3)
        assert_close(proposals.scores, their_scores)


def test_what_comes_out():
    objectness, pred_deltas, anchors = random_case(seed=1)
    inside = centres_inside(anchors, SIZES)
    for image, proposals in enumerate(
        select_proposals(
            objectness, pred_deltas, anchors, SIZES, LEVEL_SIZES, valid=inside, post_nms_top_k=40
        )
    ):
        boxes, scores = proposals
        assert boxes.shape == (40, 4) and scores.shape == (40,)
        assert (scores.diff() <= 0).all() and (scores >= 0).all() and (scores <= 1).all()
        assert (boxes >= 0).all()
        assert (boxes[:, [3, 2]] <= SIZES[image]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 16).all()
        best = objectness[image][inside[image]].max().sigmoid()
        assert scores[0] <= best


def test_a_batch_gives_each_image_what_it_gets_alone():
    objectness, pred_deltas, anchors = random_case(seed=2, images=8)
    # Beyond 1000 boxes torchvision takes another way through NMS: 8 images are, one is not.
    sizes = torch.tensor([[128, 160], [100, 150]] * 4)
    together = select_proposals(objectness, pred_deltas, anchors, sizes, LEVEL_SIZES)
    for image in range(8):
        one = slice(image, image + 1)
        alone = select_proposals(
            objectness[one], pred_deltas[one], anchors, sizes[one], LEVEL_SIZES
        )[0]
        assert torch.equal(together[image].boxes, alone.boxes)
        # The sigmoid's last bit depends on where in a vector a number stands.
        assert_close(together[image].scores, alone.scores)


def test_nms_keeps_levels_and_images_apart():
    # The same box from both levels of both images, twice each.
    anchors = torch.tensor([[0.0, 0, 32, 32]]).expand(4, -1)
    objectness = torch.tensor([[4.0, 3, 2, 1], [1, 2, 3, 4]])
    found = select_proposals(
        objectness, torch.zeros(2, 4, 4), anchors, torch.tensor([[64, 64]] * 2), [2, 2]
    )
    for proposals, logits in zip(found, ([4.0, 2.0], [4.0, 2.0]), strict=True):
        assert_close(proposals.scores, torch.tensor(logits).sigmoid())


def test_saturated_scores_keep_the_order_of_their_logits():
    anchors = torch.tensor([[0.0, 0, 20, 20], [40, 0, 60, 20], [0, 40, 20, 60]])
    objectness = torch.tensor([[40.0, 60.0, 50.0]])
    proposals = select_proposals(
        objectness, torch.zeros(1, 3, 4), anchors, torch.tensor([[64, 64]]), [3]
    )[0]
    assert (proposals.scores == 1).all()
    assert_close(proposals.boxes, anchors[[1, 2, 0]])


def test_nms_by_its_definition():
    objectness, pred_deltas, anchors = random_case(seed=3)
    level = LEVEL_SIZES[0]
    boxes = select_proposals(
        objectness[:1, :level],
        pred_deltas[:1, :level],
        anchors[:level],
        SIZES[:1],
        [level],
        nms_threshold=0.4,
    )[0].boxes
    iou = box_iou(boxes, boxes).fill_diagonal_(0)
    assert len(boxes) > 5 and iou.max() <= 0.4


def test_nothing_left_is_an_empty_result():
    objectness, pred_deltas, anchors = random_case()
    found = select_proposals(objectness, pred_deltas, anchors, SIZES, LEVEL_SIZES, min_size=1000.0)
    assert [tuple(p.boxes.shape) for p in found] == [(0, 4), (0, 4)]
    nowhere = torch.zeros_like(objectness, dtype=torch.bool)
    found = select_proposals(objectness, pred_deltas, anchors, SIZES, LEVEL_SIZES, valid=nowhere)
    assert [len(p.scores) for p in found] == [0, 0]
