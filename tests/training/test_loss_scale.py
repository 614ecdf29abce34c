"""fp16 looks for a scale of the loss; a gradient that is never finite ends that search."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer

from vocdist.data.batch import Batch
from vocdist.errors import SharedError
from vocdist.training.guard import FiniteGuard

# What the guard looks at of a batch.
PART = cast(Batch, SimpleNamespace(indices=torch.tensor([0]), weights=torch.ones(1)))


@pytest.fixture
def accelerator() -> Accelerator:
    """As in fp16, which a GPU alone has: the scaler is torch's own."""
    found = Accelerator(cpu=True)
    found.scaler = torch.amp.GradScaler("cpu")
    return found


def train(accelerator: Accelerator, gradients: list[float], path: Path) -> torch.Tensor:
    """One step for each of these gradients, settled every five steps; the weight at the end."""
    scaler = accelerator.scaler
    assert scaler is not None
    weight = torch.nn.Parameter(torch.zeros(1))
    plain = torch.optim.AdamW([weight], lr=0.1, fused=True)
    guard = FiniteGuard(
        accelerator,
        AcceleratedOptimizer(plain, scaler=scaler),
        statistics=[],
        stops=True,
        path=path,
        key_of=str,
    )
    for number, gradient in enumerate(gradients, 1):
        loss = (weight * 0 + 1).sum()
        scaler.scale(loss).backward()
        assert weight.grad is not None
        weight.grad.fill_(gradient * scaler.get_scale())
        guard.add_part(PART, loss.detach().view(1))
        guard.take_step(number, None)
        weight.grad = None
        if number % 5 == 0:
            guard.check_steps()
    return weight.detach()


def test_overflows_now_and_then_are_passed_over(accelerator: Accelerator, tmp_path: Path) -> None:
    gradients = [*[torch.inf] * 12, *[1.0] * 8]
    assert float(train(accelerator, gradients, tmp_path / "bad.jsonl")) < 0


def test_a_gradient_that_stays_nan_stops_the_run(accelerator: Accelerator, tmp_path: Path) -> None:
    with pytest.raises(SharedError, match=r"by step 30 .*runtime\.mixed_precision=bf16"):
        train(accelerator, [1.0, *[torch.nan] * 60], tmp_path / "bad.jsonl")
