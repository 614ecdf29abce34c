from pathlib import Path

import torch
from batch_norm_ranks import rank_pass
from forked import CONTEXT, free_port
from torch import nn


def test_batch_norm_over_three_ranks_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Far from zero, where a careless variance loses its digits; 5 samples: 2, 3, and a rank that
    # has none of its own and computes one that does not count.
    images = torch.randn(5, 4, 3, 5) + torch.tensor([0.0, 100.0, -1000.0, 5.0]).view(1, 4, 1, 1)
    factor = torch.randn(5, 4, 3, 5)
    shares = [([0, 1], 1.0), ([2, 3, 4], 1.0), ([0], 0.0)]
    port, ranks = free_port(), []
    for rank, (rows, counted) in enumerate(shares):
        share = {"images": images[rows].tolist(), "factor": factor[rows].tolist()}
        share["counted"] = [counted] * len(rows)
        arguments = (rank, port, share, tmp_path / str(rank))
        ranks.append(CONTEXT.Process(target=rank_pass, args=arguments))
        ranks[-1].start()
    for process in ranks:
        process.join(240)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / str(rank)) for rank in range(3)]

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
