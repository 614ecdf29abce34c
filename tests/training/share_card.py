"""Run by test_gpu_runs.py: two processes train on one device over gloo, each on its share.

Arguments: the device, where rank 0 writes the weights, whether graphs are used (`true`, `false`).
Environment: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; without them it is alone.
"""

import os
import sys

import torch
from torch import distributed, nn

from vocdist.data.batch import Batch
from vocdist.training.step import FixedStep, graphed

STEPS, WHOLE = 6, 8

device = torch.device(sys.argv[1])
alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
os.environ.update({name: os.environ.get(name, value) for name, value in alone.items()})
distributed.init_process_group("gloo")
rank, world = distributed.get_rank(), distributed.get_world_size()
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(8 * 36, 4))
model.to(device)
images = torch.rand(STEPS, WHOLE, 3, 8, 8).to(device)


def losses(network: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    return {"loss": network(batch.images).square().mean(dim=1)}


step = FixedStep(
    model,
    losses,
    whole_step=WHOLE,
    boxes=lambda: 1,
    processes=world,
    graph=graphed(device) if sys.argv[3] == "true" else None,
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for whole in images:
    own = whole.chunk(world)[rank]
    indices = torch.arange(len(own), device=device)
    # DDP's rule: the mean over the ranks is that over the whole batch.
    weights = torch.full((len(own),), world / WHOLE, device=device)
    batch = Batch((own,), (8, 8), {}, indices, weights, indices, True, WHOLE)
    step.part(batch)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
weights_after = {name: value.cpu() for name, value in model.state_dict().items()}
everyone: list = [None] * world
distributed.all_gather_object(everyone, weights_after)
if rank == 0:
    torch.save(everyone, sys.argv[2])
distributed.destroy_process_group()
