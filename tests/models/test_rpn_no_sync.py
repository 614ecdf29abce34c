import pytest
import torch
from refuse_syncs import RefuseSyncs, refusing_cuda_syncs
from torch.testing import assert_close

from vocdist.models.rpn.network import AnchorRule, MatchingRule, RegionProposalNetwork, SamplingRule

SHAPES, PADDED = [(8, 10), (4, 5)], (128, 160)


def network(**rules) -> RegionProposalNetwork:
    torch.manual_seed(0)
    anchors = AnchorRule(scales_per_level=((16, 32), (64, 96)))
    return RegionProposalNetwork(8, anchors, hidden=8, **rules)


def batch(device: str = "cpu") -> dict[str, torch.Tensor]:
    """Two boxes, one and a padded one, none."""
    boxes = torch.tensor([[[10.0, 10, 80, 90], [90, 20, 120, 60]]]).repeat(3, 1, 1)
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    return {
        "image_sizes": torch.tensor([[128, 160], [100, 120], [128, 90]]).to(device),
        "gt_boxes": (boxes * mask[:, :, None]).to(device),
        "gt_mask": mask.to(device),
        "seeds": torch.arange(3).to(device),
    }


def features(device: str = "cpu") -> list[torch.Tensor]:
    torch.manual_seed(2)
    return [torch.randn(3, 8, *shape).to(device) for shape in SHAPES]


NOTEBOOK = {
    "matching": MatchingRule(best_anchor_min_iou=0.0),
    "sampling": SamplingRule(max_positives=256, max_negatives=256, max_total=None),
}


@pytest.mark.parametrize("rules", [{}, NOTEBOOK], ids=["ours", "notebook"])
@pytest.mark.parametrize("num_gt", [2, 0])
def test_no_host_sync_from_features_to_gradients(rules, num_gt):
    model, rows, maps = network(**rules), batch(), features()
    rows["gt_boxes"], rows["gt_mask"] = rows["gt_boxes"][:, :num_gt], rows["gt_mask"][:, :num_gt]
    model.batch_anchors(SHAPES, PADDED, rows["image_sizes"])  # kept from the first step on
    with RefuseSyncs():
        losses = model.losses(model(maps), SHAPES, PADDED, **rows)
        (losses.objectness + losses.box).mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_host_sync_on_cuda_and_the_same_losses_as_on_the_cpu():
    on_cpu = network()
    expected = on_cpu.losses(on_cpu(features()), SHAPES, PADDED, **batch())
    model, rows, maps = network().cuda(), batch(device="cuda"), features(device="cuda")
    model(maps)  # cuDNN and cuBLAS set themselves up
    with refusing_cuda_syncs():
        losses = model.losses(model(maps), SHAPES, PADDED, **rows)
        (losses.objectness + losses.box).mean().backward()
    assert_close(losses.objectness.cpu(), expected.objectness, rtol=1e-3, atol=1e-4)
    assert_close(losses.box.cpu(), expected.box, rtol=1e-3, atol=1e-4)
