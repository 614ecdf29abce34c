"""Nothing in a training classifier is drawn from torch's generators: masks depend on seeds alone.

test_random_layers_in_training.py trains with them on other numbers of processes.
"""

import pytest
import torch
from torch import Tensor

from vocdist.models.backbone import LEVELS
from vocdist.models.classifier import Classifier
from vocdist.models.layers import RandomBySample, SampleDropout, SampleStochasticDepth

SEEDS = torch.arange(1, 65) * 7919 + 2**60


def dropped(seeds: Tensor, layer: int = 1, p: float = 0.3) -> Tensor:
    module = SampleStochasticDepth(p, layer)
    module.seeds = seeds
    result: Tensor = module(torch.ones(len(seeds), 2, 3, 4))
    return result


def test_a_branch_is_dropped_as_a_whole_by_its_samples_seed() -> None:
    whole = dropped(SEEDS)
    assert (whole == whole[:, :1, :1, :1]).all()
    assert torch.equal(dropped(SEEDS[10:13]), whole[10:13])
    assert torch.equal(dropped(SEEDS.flip(0)), whole.flip(0))
    assert not torch.equal(dropped(SEEDS, layer=2), whole)


def test_the_share_of_branches_is_p_and_the_mean_is_kept() -> None:
    whole = dropped(torch.arange(4000) * 7919)
    assert float((whole == 0).float().mean()) == pytest.approx(0.3, abs=0.03)
    torch.testing.assert_close(whole.max(), torch.tensor(1 / 0.7))


def test_in_evaluation_every_branch_is_there_and_training_needs_seeds() -> None:
    module, branch = SampleStochasticDepth(0.5, 0), torch.randn(3, 4, 2, 2)
    with pytest.raises(ValueError, match="seeds"):
        module(branch)
    assert torch.equal(module.eval()(branch), branch)


def record_masks(model: Classifier) -> dict[int, Tensor]:
    """Of each random layer, what it makes of ones in the latest forward pass."""
    masks: dict[int, Tensor] = {}

    def record(module: RandomBySample, inputs: tuple[Tensor], _: Tensor) -> None:
        masks[module.layer] = module.forward(torch.ones_like(inputs[0]))

    for module in model.modules():
        if isinstance(module, RandomBySample):
            module.register_forward_hook(record)
    return masks


# Layers of each kind: dropout, stochastic depth.
LAYERS = {
    "mobilenet_v3_small": (1, 0),
    "mobilenet_v3_large": (1, 0),
    "resnet18": (0, 0),
    "resnet50": (0, 0),
    "efficientnet_b0": (1, 16),
    "convnext_tiny": (0, 18),
}


@pytest.mark.parametrize("backbone", LEVELS)
def test_a_batch_and_its_halves_have_the_same_masks_and_draw_nothing(backbone: str) -> None:
    torch.manual_seed(0)
    model = Classifier(backbone, classes=3).train()
    masks = record_masks(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
    before, dropped_any = torch.get_rng_state(), []
    for seeds in SEEDS.split(8)[:2]:
        model(images, seeds).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        whole = dict(masks)
        halves = []
        for half in (slice(0, 4), slice(4, 8)):
            with torch.no_grad():
                model(images[half], seeds[half])
            halves.append(dict(masks))
        assert whole.keys() == halves[0].keys()
        for layer, mask in whole.items():
            assert torch.equal(torch.cat([half[layer] for half in halves]), mask)
        dropped_any += [mask for mask in whole.values() if (mask == 0).any()]
    assert torch.equal(torch.get_rng_state(), before)
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(SampleDropout), kinds.count(SampleStochasticDepth)) == LAYERS[backbone]
    assert bool(dropped_any) == any(LAYERS[backbone])
