"""Trainers of the shipped recipes on one device, in this process, for tests of single steps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from vocdist.config import ClassifierConfig, RpnConfig, TaskConfig
from vocdist.config.file import load_config
from vocdist.data.batch import Batch
from vocdist.data.loader import ahead_of_use
from vocdist.distributed.preemption import StopRequest
from vocdist.distributed.processes import build_accelerator
from vocdist.runs.checkpoint import Checkpoints, Position
from vocdist.runs.tracking import NullTracker
from vocdist.tasks.task import build_task
from vocdist.training.loaders import build_readers
from vocdist.training.loop import Trainer
from vocdist.training.run import build_trainer

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = [
    "model.weights=none",
    "train.global_batch=4",
    "train.accumulate=2",
    "train.log_every=1000",
    "train.clip_norm=5.0",
    "data.num_workers=0",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]
# The shipped recipes, and what else a step can be made of.
RECIPES = {
    "classifier": ["classifier.yaml", "input.size=64"],
    "weighted": ["classifier.yaml", "input.size=64", "loss.pos_weight=ratio"],
    "notebook": ["notebook/classifier.yaml", "input.size=64", "train.non_finite=skip"],
    "rpn": ["rpn.yaml", "model.classifier=none", "input.short_side=128", "input.long_side=256"],
    "images": ["notebook/rpn.yaml", "model.classifier=none", "input.short_side=64"],
    "resident": ["classifier.yaml", "input.size=64", "data.resident=device"],
    "resident rpn": [
        "rpn.yaml",
        "model.classifier=none",
        "input.short_side=128",
        "input.long_side=256",
        "input.aspects=[1.333,0.75]",
        "features.cache=false",
        "data.resident=device",
    ],
    "depth": ["classifier.yaml", "input.size=32", "model.backbone=efficientnet_b0"],
}
# Autocast casts weights and features on the way.
RECIPES |= {
    f"{name} in bf16": [*RECIPES[name], "runtime.mixed_precision=bf16"]
    for name in ("classifier", "notebook", "rpn", "images", "resident", "resident rpn")
}
# A GPU's only.
FP16 = {
    f"{name} in fp16": [*RECIPES[name], "runtime.mixed_precision=fp16"]
    for name in ("classifier", "rpn")
}
_PRECISIONS = {"bf16": "bf16", "fp16": "fp16"}


@contextmanager
def trainer_of(
    recipe: str, shards: Path, folder: Path, device: str, more: Sequence[str] = ()
) -> Iterator[Trainer]:
    """A trainer of a recipe, ready for its first step."""
    name, *own = {**RECIPES, **FP16}[recipe]
    kind = RpnConfig if "rpn" in name else ClassifierConfig
    places = [f"data.shards={shards}", f"run.dir={folder / 'run'}", f"runtime.device={device}"]
    if kind is RpnConfig:
        places.append(f"features.folder={folder / 'cache'}")
    config: TaskConfig = load_config(kind, CONFIGS / name, [*SMALL, *own, *places, *more])
    readers = build_readers(config)
    (folder / "run").mkdir(parents=True)
    torch.manual_seed(0)
    with NullTracker() as tracker:
        trainer = build_trainer(
            config,
            build_task(config, readers.train, pretrained=False),
            readers,
            build_accelerator(config.runtime),
            checkpoints=Checkpoints(folder / "run" / "checkpoints", 1),
            tracker=tracker,
            position=Position(global_batch=config.train.global_batch, manifest_hash=""),
            stop=StopRequest(has_peers=False),
        )
        assert trainer.accelerator.mixed_precision == _PRECISIONS.get(recipe[-4:], "no")
        trainer.model.train()
        trainer._guard.begin_step()
        yield trainer


def steps_of(trainer: Trainer, epoch: int = 0) -> list[list[Batch]]:
    """The parts of each step of an epoch, on the device."""
    steps: list[list[Batch]] = [[]]
    for batch in ahead_of_use(trainer.train_loader.training(epoch), trainer.accelerator.device):
        steps[-1].append(batch)
        if batch.ends_step:
            steps.append([])
    return steps[:-1]


def take(trainer: Trainer, parts: list[Batch]) -> None:
    """One optimizer step."""
    for batch in parts:
        trainer._forward_backward(batch)
    assert batch.ends_step
    trainer._optimizer_step(batch)


def values_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of its weights and statistics, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
