"""From the arrival of a batch to the optimizer's step nothing waits for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from refuse_syncs import RefuseSyncs

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
    "depth": ["classifier.yaml", "input.size=32", "model.backbone=efficientnet_b0"],
}
# Autocast casts weights and features on the way.
RECIPES |= {
    f"{name} in bf16": [*RECIPES[name], "runtime.mixed_precision=bf16"]
    for name in ("classifier", "notebook", "rpn", "images")
}


@contextmanager
def trainer_of(recipe: str, shards: Path, folder: Path, device: str) -> Iterator[Trainer]:
    name, *own = RECIPES[recipe]
    kind = RpnConfig if "rpn" in name else ClassifierConfig
    places = [f"data.shards={shards}", f"run.dir={folder / 'run'}", f"runtime.device={device}"]
    if kind is RpnConfig:
        places.append(f"features.folder={folder / 'cache'}")
    config: TaskConfig = load_config(kind, CONFIGS / name, [*SMALL, *own, *places])
    readers = build_readers(config)
    (folder / "run").mkdir()
    with NullTracker() as tracker:
        trainer = build_trainer(
            config,
            build_task(config, readers.train, pretrained=False),
            readers,
            build_accelerator(config.runtime),
            checkpoints=Checkpoints(folder / "run" / "checkpoints", 1),
            tracker=tracker,
            position=Position(global_batch=4, manifest_hash=""),
            stop=StopRequest(has_peers=False),
        )
        assert trainer.accelerator.mixed_precision == ("bf16" if "bf16" in recipe else "no")
        trainer.model.train()
        trainer._guard.begin_step()
        yield trainer


def two_steps(trainer: Trainer) -> tuple[list[Batch], list[Batch]]:
    """The parts of the first two steps, on the device."""
    batches = list(ahead_of_use(trainer.train_loader.training(0), trainer.accelerator.device))
    return batches[:2], batches[2:4]


def take(trainer: Trainer, parts: list[Batch]) -> None:
    for batch in parts:
        trainer._forward_backward(batch)
    assert batch.ends_step
    trainer._optimizer_step(batch)


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one precision for a whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("fresh_accelerator")
def test_no_step_copies_a_constant_or_asks_the_device(
    recipe: str, demo_shards: Path, tmp_path: Path
) -> None:
    with trainer_of(recipe, demo_shards, tmp_path, "cpu") as trainer:
        # What a CPU reads at every step a GPU reads on log steps.
        trainer._guard.check_steps = lambda: None  # type: ignore[method-assign]
        first, second = two_steps(trainer)
        for parts in (first, second):  # make anchors, and the optimizer's state
            take(trainer, parts)
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        with RefuseSyncs(numbers=False):  # BatchNorm's count of steps is one
            take(trainer, second)
        after = list(trainer.model.parameters())
    assert not all(map(torch.equal, before, after))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("fresh_accelerator")
def test_no_step_waits_on_cuda(recipe: str, demo_shards: Path, tmp_path: Path) -> None:
    with trainer_of(recipe, demo_shards, tmp_path, "cuda") as trainer:
        first, second = two_steps(trainer)
        for parts in (first, second):  # cuDNN, cuBLAS, anchors and the optimizer set themselves up
            take(trainer, parts)
        torch.cuda.set_sync_debug_mode("error")
        try:
            take(trainer, second)
        finally:
            torch.cuda.set_sync_debug_mode("default")
