import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRpn
from torchvision.ops import box_iou

from vocdist.models.rpn.network import (
    AnchorRule,
    BatchAnchors,
    LossRule,
    MatchingRule,
    ProposalRule,
    RegionProposalNetwork,
    SamplingRule,
)

SHAPES, PADDED = [(8, 10), (4, 5)], (128, 160)
ANCHORS = AnchorRule(scales_per_level=((16, 32), (64, 96)), ratios=(0.5, 1.0, 2.0))
EVERY_ANCHOR = SamplingRule(max_positives=10_000, max_negatives=10_000, max_total=None)


def network(**rules) -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(8, ANCHORS, hidden=8, **rules)


def batch(images: int = 3) -> dict[str, torch.Tensor]:
    """Ragged: a full image, a smaller one, one without boxes (and so on)."""
    torch.manual_seed(1)
    sizes = torch.tensor([[128, 160], [100, 120], [128, 90]])[torch.arange(images) % 3]
    boxes = torch.zeros(images, 3, 4)
    boxes[0::3] = torch.tensor([[10.0, 10, 80, 90], [90, 20, 120, 60], [5, 70, 6.5, 70.5]])
    boxes[1::3, 0] = torch.tensor([40.0, 30, 110, 95])
    mask = boxes.any(dim=-1)
    return {
        "image_sizes": sizes,
        "gt_boxes": boxes,
        "gt_mask": mask,
        "seeds": torch.arange(images) + 7,
    }


def features(images: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(images, 8, *shape) for shape in SHAPES]


class FixedAnchors(torch.nn.Module):
    def __init__(self, anchors):
        super().__init__()
        self.anchors = anchors

    def forward(self, images, features):
        return [self.anchors]


class HeadForTorchvision(torch.nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, levels):
        hidden = [torch.relu(self.head.conv(level)) for level in levels]
        return [self.head.objectness(h) for h in hidden], [self.head.deltas(h) for h in hidden]


@pytest.mark.parametrize("image", [0, 1])
def test_training_step_agrees_with_all_of_torchvisions_rpn(image):
    """On our anchors and with every anchor sampled, so that nothing is left to chance."""
    ours = network(
        matching=MatchingRule(best_anchor_min_iou=0.0),
        sampling=EVERY_ANCHOR,
        loss=LossRule(box_normalizer="sampled"),
    )
    rows = {name: value[image : image + 1] for name, value in batch().items()}
    rows["image_sizes"] = torch.tensor([PADDED])
    maps = [level[image : image + 1] for level in features()]
    theirs = TorchvisionRpn(
        FixedAnchors(ours.batch_anchors(SHAPES, PADDED, rows["image_sizes"]).boxes[0]),
        HeadForTorchvision(ours.head),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=20_000,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 10},
        post_nms_top_n={"training": 10},
        nms_thresh=0.7,
    )
    # torchvision cannot take a log of our sides below a pixel: leave that box to other tests.
    wide = rows["gt_mask"] & ((rows["gt_boxes"][..., 2:] - rows["gt_boxes"][..., :2]) > 2).all(-1)
    rows["gt_mask"] = wide
    _, expected = theirs(
        ImageList(torch.zeros(1, 3, *PADDED), [PADDED]),
        {str(level): values for level, values in enumerate(maps)},
        [{"boxes": rows["gt_boxes"][wide]}],
    )
    losses = ours.losses(ours(maps), SHAPES, PADDED, **rows)
    assert expected["loss_rpn_box_reg"] > 0
    assert_close(losses.objectness[0], expected["loss_objectness"])
    assert_close(losses.box[0], expected["loss_rpn_box_reg"])


def test_a_batch_gives_each_image_the_loss_it_has_alone():
    model, rows, maps = network(), batch(), features()
    together = model.losses(model(maps), SHAPES, PADDED, **rows)
    assert (together.box > 0).tolist() == [True, True, False]
    for image in range(3):
        one = slice(image, image + 1)
        alone = {name: value[one] for name, value in rows.items()}
        # Alone, there is no padding to the batch's most boxes either.
        real = alone["gt_mask"][0]
        alone["gt_boxes"], alone["gt_mask"] = alone["gt_boxes"][:, real], alone["gt_mask"][:, real]
        losses = model.losses(model([level[one] for level in maps]), SHAPES, PADDED, **alone)
        assert_close(losses.objectness[0], together.objectness[image])
        assert_close(losses.box[0], together.box[image])


def test_samples_depend_on_the_seed_alone():
    model, rows = network(sampling=SamplingRule(max_negatives=20, max_total=20)), batch()
    anchors = model.batch_anchors(SHAPES, PADDED, rows["image_sizes"])

    def labels(order, seeds):
        picked = BatchAnchors(*(values[order] for values in anchors))
        boxes, mask = rows["gt_boxes"][order], rows["gt_mask"][order]
        return model.targets(picked, boxes, mask, seeds).labels

    forward = labels(torch.tensor([0, 1, 2]), rows["seeds"])
    torch.rand(10)
    backward = labels(torch.tensor([2, 1, 0]), rows["seeds"].flip(0))
    assert torch.equal(forward.flip(0), backward)
    assert not torch.equal(forward, labels(torch.tensor([0, 1, 2]), rows["seeds"] + 1))


def test_padding_adds_only_ignored_anchors():
    model = network(sampling=EVERY_ANCHOR)
    rows = {name: value[:1] for name, value in batch().items()}
    rows["image_sizes"] = torch.tensor([[96, 128]])
    small_shapes = [(6, 8), (3, 4)]

    def labelled(shapes, padded):
        anchors = model.batch_anchors(shapes, padded, rows["image_sizes"])
        found = model.targets(anchors, rows["gt_boxes"], rows["gt_mask"], rows["seeds"])
        return anchors.inside, found

    inside, padded = labelled(SHAPES, PADDED)
    everything, alone = labelled(small_shapes, (96, 128))
    assert everything.all()
    assert (padded.labels[~inside] == -1).all()
    assert torch.equal(padded.labels[inside], alone.labels.flatten())
    assert_close(padded.deltas[inside], alone.deltas[0])


def test_one_anchor():
    model = RegionProposalNetwork(4, AnchorRule(scales_per_level=((32,),), ratios=(1.0,)), hidden=4)
    output = model([torch.ones(1, 4, 1, 1)])
    sizes, box = torch.tensor([[32, 32]]), torch.tensor([[[0.0, 0, 32, 32]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    losses = model.losses(output, [(1, 1)], (32, 32), sizes, box, mask, torch.tensor([0]))
    # The only anchor is the box: no offset to learn, objectness to learn from its prior of 0.01.
    assert losses.objectness.item() == pytest.approx(4.6, abs=0.2)
    assert losses.box.item() == pytest.approx(0, abs=1e-3)
    assert len(model.propose(output, [(1, 1)], (32, 32), sizes)[0].boxes) == 1


def test_the_loss_falls_and_the_boxes_are_found():
    model, rows, maps = network(), batch(), features()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    totals = []
    for _ in range(40):
        losses = model.losses(model(maps), SHAPES, PADDED, **rows)
        total = (losses.objectness + losses.box).mean()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.3 * totals[0]
    found = model.propose(model(maps), SHAPES, PADDED, rows["image_sizes"])
    assert box_iou(rows["gt_boxes"][0, :1], found[0].boxes[:5]).max() > 0.7


def test_a_rule_can_be_given_for_one_call():
    model, rows = network(), batch()
    rule = ProposalRule(post_nms_top_k=3, min_size=4.0)
    found = model.propose(model(features()), SHAPES, PADDED, rows["image_sizes"], rule)
    assert [len(proposals.boxes) for proposals in found] == [3, 3, 3]


def test_rules_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="same number of scales"):
        AnchorRule(scales_per_level=((32,), (64, 128)))
    with pytest.raises(ValueError, match="same number of scales"):
        AnchorRule(scales_per_level=())
    with pytest.raises(ValueError, match="lower it"):
        MatchingRule(positive_iou=0.3, negative_iou=0.5)
