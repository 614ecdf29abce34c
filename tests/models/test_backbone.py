from typing import get_args

import pytest
import torch

from vocdist.config.values import BackboneName
from vocdist.errors import UserError
from vocdist.models.backbone import LEVELS, FrozenBackbone, build_network
from vocdist.models.classifier import Classifier
from vocdist.models.layers import SampleDropout


@pytest.mark.parametrize("name", sorted(LEVELS))
@pytest.mark.parametrize("strides", [(32,), (16, 32), (32, 8, 16)])
def test_levels_have_the_stated_strides_and_channels(name: str, strides: tuple[int, ...]) -> None:
    backbone = FrozenBackbone(build_network(name), name, strides)
    assert backbone.strides == tuple(sorted(strides))
    # ConvNeXt rounds each halving down, the others up.
    width = 64 if name == "convnext_tiny" else 70
    levels = backbone(torch.zeros(2, 3, 96, width))
    for level, stride, channels in zip(levels, backbone.strides, backbone.channels, strict=True):
        assert level.shape == (2, channels, -(-96 // stride), -(-width // stride))


def test_channels_are_the_networks_own() -> None:
    found = {n: FrozenBackbone(build_network(n), n, (8, 16, 32)).channels for n in LEVELS}
    assert found == {
        "mobilenet_v3_small": (24, 288, 576),
        "mobilenet_v3_large": (40, 672, 960),
        "resnet18": (128, 256, 512),
        "resnet50": (512, 1024, 2048),
        "efficientnet_b0": (40, 672, 1280),
        "convnext_tiny": (192, 384, 768),
    }


def test_every_backbone_of_the_config_has_its_levels() -> None:
    assert set(get_args(BackboneName)) == set(LEVELS)


def test_a_frozen_backbone_does_not_move() -> None:
    backbone = FrozenBackbone(build_network("mobilenet_v3_small"), "mobilenet_v3_small", (32,))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    backbone.train()
    (features,) = backbone(torch.randn(2, 3, 64, 64))
    assert not features.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    after = backbone.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_features_are_those_of_the_whole_network() -> None:
    network = build_network("mobilenet_v3_small").eval()
    backbone = FrozenBackbone(network, "mobilenet_v3_small", (32,))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[0], network.features(images))


@pytest.mark.parametrize("name", sorted(LEVELS))
def test_the_classifier_has_one_logit_a_class(name: str) -> None:
    model = Classifier(name, classes=3).eval()
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    assert model(images).shape == (2, 3)


def test_batch_norm_momentum_reaches_every_layer() -> None:
    model = Classifier("mobilenet_v3_small", classes=3, batch_norm_momentum=0.1)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_dropout_is_set_where_there_is_some() -> None:
    model = Classifier("mobilenet_v3_small", classes=3, dropout=0.5)
    assert [m.p for m in model.modules() if isinstance(m, SampleDropout)] == [0.5]
    with pytest.raises(UserError, match=r"model\.dropout=0\.5: resnet18 has no dropout"):
        Classifier("resnet18", classes=3, dropout=0.5)
