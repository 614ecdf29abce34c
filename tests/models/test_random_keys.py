import pytest
import torch
from torch.testing import assert_close

from vocdist.models.layers import random_keys


def test_pure_function_of_the_seed():
    together = random_keys(torch.tensor([5, 9, -3]), 100)
    torch.manual_seed(1)
    assert torch.equal(random_keys(torch.tensor([9]), 100)[0], together[1])
    # More anchors do not change the keys of the first.
    assert torch.equal(random_keys(torch.tensor([5]), 60)[0], together[0, :60])
    # Pinned, so that a resumed run draws what the first would have.
    pinned = torch.tensor([[12927400, 12638650], [1644273, 11473726]]) / 2**24
    assert torch.equal(random_keys(torch.tensor([0, 2**40 + 1]), 2), pinned)


def test_uniform():
    keys = random_keys(torch.arange(1000), 1000)
    assert keys.min() >= 0 and keys.max() < 1
    observed = torch.histc(keys, bins=100, min=0, max=1)
    # 99 degrees of freedom: beyond 150 once in about 1500 draws.
    assert ((observed - 10_000) ** 2 / 10_000).sum() < 150
    assert_close(keys.mean(dim=0), torch.full((1000,), 0.5), rtol=0, atol=0.05)
    assert_close(keys.mean(dim=1), torch.full((1000,), 0.5), rtol=0, atol=0.05)


@pytest.mark.parametrize("stride", [1, 2**16, 2**31, 2**32, 2**33 + 1])
def test_nearby_seeds_and_indices_are_independent(stride):
    keys = random_keys(torch.arange(64) * stride, 4096)
    correlation = torch.corrcoef(keys)[~torch.eye(64, dtype=torch.bool)]
    # 1 / sqrt(4096) is a standard deviation.
    assert correlation.abs().max() < 5.5 / 64
    shifted = torch.corrcoef(torch.stack([keys[:, :-1].flatten(), keys[:, 1:].flatten()]))
    assert shifted[0, 1].abs() < 0.01


def test_seeds_do_not_share_their_keys_in_another_order():
    first, second = random_keys(torch.tensor([1, 2]), 4096).unbind()
    # By chance 4096^2 / 2^24 = 1 key in common.
    assert torch.isin(first, second).sum() < 10
