import pytest

from vocdist.config.training import OptimConfig
from vocdist.models.classifier import Classifier
from vocdist.training.optim import build_optimizer


@pytest.fixture(scope="module")
def model() -> Classifier:
    return Classifier("mobilenet_v3_small", classes=3)


def test_the_notebooks_is_one_group(model: Classifier) -> None:
    (group,) = build_optimizer(model, OptimConfig(lr=3e-4, weight_decay=1e-4)).param_groups
    assert (group["peak_lr"], group["weight_decay"]) == (3e-4, 1e-4)
    assert len(group["params"]) == len(list(model.parameters()))


def test_backbone_and_head_norms_and_weights_go_their_own_ways(model: Classifier) -> None:
    optim = OptimConfig(lr=1e-3, backbone_lr=1e-4, weight_decay=0.01, decay_norms=False)
    found = {
        id(parameter): (group["peak_lr"], group["weight_decay"])
        for group in build_optimizer(model, optim).param_groups
        for parameter in group["params"]
    }
    assert len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        head = name.startswith("network.classifier.")
        vector = parameter.ndim == 1
        expected = (1e-3 if head else 1e-4, 0.0 if vector else 0.01)
        assert found[id(parameter)] == expected, name


def test_a_frozen_backbone_is_left_out() -> None:
    model = Classifier("resnet18", classes=3)
    model.network.layer1.requires_grad_(False)
    groups = build_optimizer(model, OptimConfig(backbone_lr=1e-5)).param_groups
    listed = sum(len(group["params"]) for group in groups)
    assert listed == sum(parameter.requires_grad for parameter in model.parameters())
