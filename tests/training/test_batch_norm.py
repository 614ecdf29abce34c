from pathlib import Path

import pytest
import torch
from batch_norm_ranks import rank_pass
from forked import CONTEXT, free_port
from torch import nn

from vocdist.models.layers import BatchNorm


def over_ranks(
    images: torch.Tensor,
    factor: torch.Tensor,
    shares: list[tuple[list[int], float]],
    folder: Path,
) -> list[dict[str, torch.Tensor]]:
    """What each of three ranks has found, of its rows, which count or do not."""
    port, ranks = free_port(), []
    for rank, (rows, counted) in enumerate(shares):
        share = {"images": images[rows].tolist(), "factor": factor[rows].tolist()}
        share["counted"] = [counted] * len(rows)
        arguments = (rank, port, share, folder / str(rank))
        ranks.append(CONTEXT.Process(target=rank_pass, args=arguments))
        ranks[-1].start()
    for process in ranks:
        process.join(240)
        assert process.exitcode == 0
    return [torch.load(folder / str(rank)) for rank in range(3)]


def test_batch_norm_over_three_ranks_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Far from zero, where a careless variance loses its digits; 5 samples: 2, 3, and a rank that
    # has none of its own and computes one that does not count.
    images = torch.randn(5, 4, 3, 5) + torch.tensor([0.0, 100.0, -1000.0, 5.0]).view(1, 4, 1, 1)
    factor = torch.randn(5, 4, 3, 5)
    shares = [([0, 1], 1.0), ([2, 3, 4], 1.0), ([0], 0.0)]
    found = over_ranks(images, factor, shares, tmp_path)

    layer = nn.BatchNorm2d(4, momentum=0.1).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    whole = images.double().requires_grad_()
    result = layer(whole)
    (result * factor).sum().backward()

    def close(ours: torch.Tensor, theirs: torch.Tensor | None) -> None:
        assert theirs is not None
        torch.testing.assert_close(ours, theirs.detach().float(), rtol=1e-3, atol=1e-3)

    close(torch.cat([f["result"] for f in found[:2]]), result)
    close(torch.cat([f["images"] for f in found[:2]]), whole.grad)
    # What DDP adds up; the third rank's sample has no part in it.
    close(sum(f["weight"] for f in found), layer.weight.grad)
    close(sum(f["bias"] for f in found), layer.bias.grad)
    assert layer.running_mean is not None and layer.running_var is not None
    close(found[0]["running"], torch.cat([layer.running_mean, layer.running_var]))
    for f in found:
        assert torch.equal(f["running"], found[0]["running"])


def test_a_single_value_a_channel_is_normalised_by_the_running_statistics(tmp_path: Path) -> None:
    images, factor = torch.full((1, 4, 1, 1), 5.0), torch.ones(1, 4, 1, 1)
    layer = BatchNorm(4, momentum=0.1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    result = layer(images)
    (result * factor).sum().backward()
    assert result.flatten().tolist() == pytest.approx([5.0, 10.0, -5.0, 2.5], rel=1e-4)
    assert layer.weight.grad is not None and layer.weight.grad.abs().min() > 1
    assert layer.running_mean is not None and not layer.running_mean.any()
    shares = [([0], 1.0), ([0], 0.0), ([0], 0.0)]
    for found in over_ranks(images, factor, shares, tmp_path):
        torch.testing.assert_close(found["result"], result.detach())
        assert found["running"].tolist() == [0.0] * 4 + [1.0] * 4
