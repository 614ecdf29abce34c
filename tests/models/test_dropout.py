import pytest
import torch

from vocdist.models.layers import SampleDropout

SEEDS = torch.arange(64) * 7919 + 2**60


def dropped(seeds: torch.Tensor, layer: int = 1, p: float = 0.3) -> torch.Tensor:
    module = SampleDropout(p, layer)
    module.seeds = seeds
    result: torch.Tensor = module(torch.ones(len(seeds), 500))
    return result


def test_a_sample_is_masked_alike_in_any_batch_and_at_any_time() -> None:
    whole = dropped(SEEDS)
    assert torch.equal(dropped(SEEDS[10:13]), whole[10:13])
    assert torch.equal(dropped(SEEDS.flip(0)), whole.flip(0))
    torch.manual_seed(1)
    assert torch.equal(dropped(SEEDS), whole)


def test_samples_and_layers_differ() -> None:
    whole = dropped(SEEDS)
    assert len({tuple(row.tolist()) for row in whole}) == len(SEEDS)
    assert not torch.equal(dropped(SEEDS, layer=2), whole)


def test_the_share_is_p_and_the_mean_is_kept() -> None:
    whole = dropped(SEEDS)
    kept = whole[whole != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7))
    assert float((whole == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_evaluation_drops_nothing_and_training_needs_seeds() -> None:
    module, features = SampleDropout(0.5, 0), torch.randn(3, 4)
    with pytest.raises(ValueError, match="seeds"):
        module(features)
    assert torch.equal(module.eval()(features), features)
