"""Launched by test_two_processes.py: the gradient of one step, as the loop accumulates it.

Arguments: where to write it, `backward` or `fixed` (how the step is computed), settings.
"""

import sys
from pathlib import Path

import torch

from vocdist.config import RpnConfig
from vocdist.config.file import load_config
from vocdist.data.workers import LoaderProcesses
from vocdist.distributed.agreement import Agreement
from vocdist.distributed.preemption import StopRequest
from vocdist.distributed.processes import build_accelerator, prepare
from vocdist.runs.checkpoint import Checkpoints, Position
from vocdist.runs.tracking import NullTracker
from vocdist.tasks.task import build_task
from vocdist.training.loaders import TrainingLoaders, build_loader, build_reader
from vocdist.training.loop import Trainer
from vocdist.training.step import Backward, FixedStep, Step

config = load_config(RpnConfig, None, sys.argv[3:])
torch.manual_seed(0)
reader = build_reader(config, "train")
task = build_task(config, reader, pretrained=True)
accelerator = build_accelerator(config.runtime)
parameters = [p for p in task.model.parameters() if p.requires_grad]
model, optimizer = prepare(accelerator, task.model, torch.optim.SGD(parameters, lr=0.0))
ranks = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
loader = build_loader(config, reader, training=True, **ranks)
processes = LoaderProcesses([loader.dataset], workers=0, pin_memory=False)
step: Step = Backward(accelerator, model, task.losses)
if sys.argv[2] == "fixed":
    whole, world = config.train.global_batch, accelerator.num_processes
    step = FixedStep(task.model, task.losses, whole_step=whole, boxes=lambda: 9, processes=world)
trainer = Trainer(
    task=task,
    model=model,
    optimizer=optimizer,
    loaders=TrainingLoaders(loader, loader, processes),
    accelerator=accelerator,
    agreement=Agreement(accelerator, StopRequest(has_peers=True), timeout_s=60),
    checkpoints=Checkpoints(Path("unused"), keep=1),
    tracker=NullTracker(),
    train=config.train,
    optim=config.optim,
    position=Position(global_batch=config.train.global_batch, manifest_hash=""),
    step=step,
)
parts = 0
for batch in loader.training(epoch=0):
    trainer._forward_backward(batch)
    parts += 1
    if batch.ends_step:
        break
if accelerator.is_main_process:
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    torch.save({"gradient": gradient, "parts": parts}, sys.argv[1])
