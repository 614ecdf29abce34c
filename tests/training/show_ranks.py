"""Run by test_two_processes.py: what does each rank know, and which samples does it see?"""

import json
import sys
from pathlib import Path

from accelerate.utils import gather_object

from vocdist.config import ClassifierConfig
from vocdist.config.file import load_config
from vocdist.distributed.processes import build_accelerator
from vocdist.training.loaders import build_loader, build_reader

config = load_config(ClassifierConfig, None, sys.argv[2:])
accelerator = build_accelerator(config.runtime)
loader = build_loader(
    config,
    build_reader(config, "train"),
    training=True,
    rank=accelerator.process_index,
    world_size=accelerator.num_processes,
)
seen: list[list[int]] = [[]]
for batch in loader.training(epoch=0):
    seen[-1] += batch.indices[batch.weights > 0].tolist()
    if batch.ends_step:
        seen.append([])
assert seen.pop() == []
row = {"rank": accelerator.process_index, "world": accelerator.num_processes, "seen": seen}
rows = gather_object([row])
if accelerator.is_main_process:
    Path(sys.argv[1]).write_text(json.dumps(rows))
