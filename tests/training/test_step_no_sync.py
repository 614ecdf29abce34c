"""From the arrival of a batch to the optimizer's step nothing waits for the device."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from device_steps import RECIPES, steps_of, take, trainer_of
from refuse_syncs import RefuseSyncs, refusing_cuda_syncs


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
        first, second = steps_of(trainer)[:2]
        for parts in (first, second):  # make anchors, and the optimizer's state
            take(trainer, parts)
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        with RefuseSyncs(numbers=False):  # BatchNorm's count of steps is one
            take(trainer, second)
        after = list(trainer.model.parameters())
    assert not all(map(torch.equal, before, after))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graph", ["false", "auto"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("fresh_accelerator")
def test_no_step_waits_on_cuda(recipe: str, graph: str, demo_shards: Path, tmp_path: Path) -> None:
    more = [f"runtime.cuda_graph={graph}"]
    with trainer_of(recipe, demo_shards, tmp_path, "cuda", more) as trainer:
        first, second = steps_of(trainer)[:2]
        # cuDNN, cuBLAS, anchors and the optimizer set themselves up; then graphs are recorded.
        for parts in (first, second, first, second):
            take(trainer, parts)
        with refusing_cuda_syncs():
            take(trainer, second)
