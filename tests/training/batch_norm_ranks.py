"""One rank of test_batch_norm.py: BatchNorm over all ranks, forward and backward."""

import os
from pathlib import Path

import torch
from torch import distributed

from vocdist.models.layers import SyncBatchNorm


def rank_pass(rank: int, port: int, share: dict[str, list[float]], output: Path) -> None:
    """Save the outputs and gradients of this rank's part of the batch."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    distributed.init_process_group("gloo", rank=rank, world_size=3)
    layer = SyncBatchNorm(4, momentum=0.1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, -1.0, 0.5]))
    images, factor = (torch.tensor(share[name]) for name in ("images", "factor"))
    layer.counted = torch.tensor(share["counted"]) > 0
    images.requires_grad_()
    result = layer(images)
    (result * factor * layer.counted.view(-1, 1, 1, 1)).sum().backward()
    torch.save(
        {
            "result": result.detach(),
            "images": images.grad,
            "weight": layer.weight.grad,
            "bias": layer.bias.grad,
            "running": torch.cat([layer.running_mean, layer.running_var]),
        },
        output,
    )
    distributed.destroy_process_group()
