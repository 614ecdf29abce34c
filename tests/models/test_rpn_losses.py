import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRpn
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers

from vocdist.models.rpn.assignment import IGNORE, NEGATIVE, POSITIVE
from vocdist.models.rpn.losses import rpn_losses, target_deltas
from vocdist.models.rpn.network import RpnHead


def random_case(images: int = 3, anchors: int = 40, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    objectness = torch.randn(images, anchors, generator=generator)
    pred_deltas = torch.randn(images, anchors, 4, generator=generator)
    targets = torch.randn(images, anchors, 4, generator=generator)
    labels = torch.randint(-1, 2, (images, anchors), generator=generator).to(torch.int8)
    return objectness, pred_deltas, labels, targets


class TestHead:
    def test_starts_at_the_prior_with_small_weights(self):
        torch.manual_seed(0)
        head = RpnHead(32, 9)
        output = head([torch.zeros(2, 32, 4, 5)])
        assert_close(output.objectness.sigmoid(), torch.full((2, 180), 0.01))
        assert_close(output.deltas, torch.zeros(2, 180, 4))
        assert_close(head.conv.weight.std(), torch.tensor(0.01), rtol=0.05, atol=0)

    def test_agrees_with_torchvision_on_several_levels(self):
        ours, theirs = RpnHead(16, 3, hidden=16), RPNHead(16, 3)
        theirs.conv[0][0].load_state_dict(ours.conv.state_dict())
        theirs.cls_logits.load_state_dict(ours.objectness.state_dict())
        theirs.bbox_pred.load_state_dict(ours.deltas.state_dict())
        torch.manual_seed(0)
        features = [torch.randn(2, 16, 6, 8), torch.randn(2, 16, 3, 4)]
        logits, deltas = concat_box_prediction_layers(*theirs(features))
        output = ours(features)
        assert output.objectness.shape == (2, (6 * 8 + 3 * 4) * 3)
        assert_close(output.objectness.flatten(), logits.flatten())
        assert_close(output.deltas.reshape(-1, 4), deltas)


class TestLosses:
    def test_by_hand(self):
        labels = torch.tensor([[POSITIVE, NEGATIVE, IGNORE]], dtype=torch.int8)
        objectness = torch.tensor([[0.0, 0.0, 50.0]])
        pred = torch.tensor([[[1.0, 0, 0, 0], [9, 9, 9, 9], [9, 9, 9, 9]]])
        target = torch.zeros(1, 3, 4)
        for normalizer, count in (("positives", 4), ("sampled", 2)):
            losses = rpn_losses(
                objectness, pred, labels, target, beta=0.5, box_normalizer=normalizer
            )
            assert_close(losses.objectness, torch.tensor([math.log(2)]))
            assert_close(losses.box, torch.tensor([(1 - 0.25) / count]))

    def test_agrees_with_torchvision_image_by_image(self):
        objectness, pred, labels, targets = random_case()
        rpn = TorchvisionRpn(None, None, 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
        rpn.fg_bg_sampler = lambda labels: ([x == 1 for x in labels], [x == 0 for x in labels])
        ours = rpn_losses(objectness, pred, labels, targets, box_normalizer="sampled")
        for image in range(len(labels)):
            theirs = rpn.compute_loss(
                objectness[image], pred[image], [labels[image].float()], [targets[image]]
            )
            assert_close(ours.objectness[image], theirs[0])
            assert_close(ours.box[image], theirs[1])

    def test_agrees_with_the_notebook_image_by_image(self):
        objectness, pred, labels, targets = random_case(seed=1)
        ours = rpn_losses(objectness, pred, labels, targets)
        for image in range(len(labels)):
            sampled, positive = labels[image] != -1, labels[image] == 1
            entropy = F.binary_cross_entropy_with_logits(
                objectness[image][sampled], labels[image][sampled].float()
            )
            distance = F.smooth_l1_loss(pred[image][positive], targets[image][positive], beta=1 / 9)
            assert_close(ours.objectness[image], entropy)
            assert_close(ours.box[image], distance)

    def test_mean_over_images_is_the_mean_over_ranks(self):
        objectness, pred, labels, targets = random_case(images=4)
        labels[0, 3:] = IGNORE  # a rank that normalised by its own anchors would differ
        whole = rpn_losses(objectness, pred, labels, targets)
        ranks = [
            rpn_losses(objectness[part], pred[part], labels[part], targets[part])
            for part in (slice(0, 2), slice(2, 4))
        ]
        assert_close(whole.box.mean(), torch.stack([r.box.mean() for r in ranks]).mean())
        assert_close(
            whole.objectness.mean(), torch.stack([r.objectness.mean() for r in ranks]).mean()
        )

    @pytest.mark.parametrize("normalizer", ["positives", "sampled"])
    @pytest.mark.parametrize("label", [NEGATIVE, IGNORE])
    def test_without_positives_zero_and_every_parameter_has_a_gradient(self, label, normalizer):
        head = RpnHead(8, 2, hidden=8)
        output = head([torch.randn(2, 8, 3, 3)])
        labels = torch.full((2, 18), label, dtype=torch.int8)
        losses = rpn_losses(*output, labels, torch.zeros(2, 18, 4), box_normalizer=normalizer)
        assert losses.box.tolist() == [0.0, 0.0]
        (losses.box + losses.objectness).mean().backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_half_precision_output_is_summed_in_float32(self):
        objectness, pred, labels, targets = random_case()
        losses = rpn_losses(objectness.bfloat16(), pred.bfloat16(), labels, targets)
        assert losses.objectness.dtype == losses.box.dtype == torch.float32


class TestTargetDeltas:
    def test_gathers_each_images_own_boxes(self):
        anchors = torch.tensor([[[0.0, 0, 10, 10], [10, 0, 20, 10]]]).expand(2, -1, -1)
        gt = torch.tensor([[[5.0, 0, 15, 10], [0, 0, 0, 0]], [[0, 0, 10, 10], [10, 0, 20, 20]]])
        deltas = target_deltas(anchors, gt, torch.tensor([[0, 0], [0, 1]]))
        expected = torch.tensor(
            [[[0.5, 0, 0, 0], [-0.5, 0, 0, 0]], [[0, 0, 0, 0], [0, 0.5, 0, math.log(2)]]]
        )
        assert_close(deltas, expected)

    def test_no_boxes_at_all(self):
        anchors = torch.rand(2, 5, 4)
        matched = torch.zeros(2, 5, dtype=torch.int64)
        assert torch.equal(target_deltas(anchors, torch.zeros(2, 0, 4), matched), anchors * 0)
        assert target_deltas(anchors, torch.zeros(2, 3, 4), matched).isfinite().all()
