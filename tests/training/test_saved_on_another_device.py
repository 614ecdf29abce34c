"""A checkpoint goes on with the optimizer kernels of the device at hand, not of its own.

MPS runs AdamW without fused kernels, CUDA with them; the CPU has both.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vocdist.config.training import OptimConfig
from vocdist.runs.checkpoint import Checkpoints, Position
from vocdist.runs.tracking import NullTracker, Tracker
from vocdist.training.guard import FiniteGuard
from vocdist.training.log import RunLog
from vocdist.training.optim import WeightAverage, build_optimizer, load_optimizer_state
from vocdist.training.saving import Saver

START = Position(global_batch=4, manifest_hash="")


class Run:
    """A small model with all that takes and saves its steps."""

    def __init__(self, folder: Path, tracker: Tracker, fused: bool) -> None:
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        self.model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
        # Two groups: decay is for matrices alone.
        optim = OptimConfig(lr=0.01, weight_decay=0.1, decay_norms=False)
        self.adamw = build_optimizer(self.model, optim, fused=fused)
        prepared = accelerator.prepare_optimizer(self.adamw)
        self.guard = FiniteGuard(
            accelerator,
            prepared,
            statistics=[],
            stops=False,
            path=folder / "bad.jsonl",
            key_of=str,
        )
        log = RunLog(accelerator, tracker, 1, 10)
        average = WeightAverage(self.model, None)
        checkpoints = Checkpoints(folder / "checkpoints", 1)
        self.saver = Saver(self.model, prepared, average, self.guard, log, accelerator, checkpoints)
        self.checkpoints = checkpoints

    def step(self, number: int, factor: float = 1.0) -> None:
        rows = torch.randn(6, 5, generator=torch.Generator().manual_seed(number))
        self.adamw.zero_grad()
        (self.model(rows).square().mean() * factor).backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.guard.take_step(number, nn.utils.get_total_norm(gradients))

    def weights(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def flags(self) -> list[tuple[object, object, object]]:
        return [(g["fused"], g["foreach"], g["capturable"]) for g in self.adamw.param_groups]


@pytest.fixture
def run_of(tmp_path: Path) -> Iterator[Callable[[bool], Run]]:
    """Makes runs, with fused kernels or without, that share a folder."""
    with NullTracker() as tracker:
        yield lambda fused: Run(tmp_path, tracker, fused)


@pytest.mark.parametrize("there", [False, True], ids=["saved-unfused", "saved-fused"])
@pytest.mark.parametrize("here", [False, True], ids=["goes-on-unfused", "goes-on-fused"])
def test_the_next_step_is_the_same_with_other_kernels(
    run_of: Callable[[bool], Run], there: bool, here: bool
) -> None:
    saved = run_of(there)
    for number in (1, 2, 3):
        saved.step(number)
    position = START.after_step(4)
    saved.saver.save(position, best=False)
    resumed = run_of(here)
    flags = resumed.flags()
    checkpoint = resumed.checkpoints.last()
    assert checkpoint is not None
    resumed.saver.restore(checkpoint, position)
    assert torch.equal(resumed.weights(), saved.weights())
    assert resumed.flags() == flags
    assert len(flags) == 2
    before = saved.weights()
    for run in (saved, resumed):
        run.step(4)
    # Fused kernels round otherwise; a step moves weights by about 0.01.
    assert (saved.weights() - before).abs().mean() > 1e-3
    torch.testing.assert_close(resumed.weights(), saved.weights(), rtol=1e-5, atol=1e-6)
    if here == there:
        assert torch.equal(resumed.weights(), saved.weights())
    # A bad step is passed over by the kernel at hand.
    good = resumed.weights()
    resumed.step(5, factor=float("nan"))
    assert torch.equal(resumed.weights(), good)


@pytest.mark.parametrize("flag", ["foreach", "capturable"])
def test_no_other_flag_of_a_device_comes_back(run_of: Callable[[bool], Run], flag: str) -> None:
    saved, resumed = run_of(False), run_of(False)
    saved.step(1)
    state = saved.adamw.state_dict()
    for group in state["param_groups"]:
        group[flag] = True
        group["lr"] = 0.5
    load_optimizer_state(resumed.adamw, state)
    assert resumed.flags() == [(False, None, False)] * 2
    # What belongs to the training does.
    assert [group["lr"] for group in resumed.adamw.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("fused", [False, True])
def test_step_counts_live_where_the_kernel_at_hand_wants_them(fused: bool) -> None:
    # The meta device stands for any accelerator: no kernel runs here, only the moves.
    weight = nn.Parameter(torch.ones(3))
    saved = torch.optim.AdamW([weight], fused=not fused)
    weight.grad = torch.ones(3)
    saved.step()
    there = torch.optim.AdamW([nn.Parameter(torch.ones(3, device="meta"))])
    there.param_groups[0]["fused"] = fused
    load_optimizer_state(there, saved.state_dict())
    (values,) = there.state.values()
    assert values["step"].device.type == ("meta" if fused else "cpu")
    assert values["exp_avg"].device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_saved_without_fused_kernels_it_goes_on_with_them_on_cuda() -> None:
    start = torch.linspace(-1, 1, 50)
    runs = []
    for device in ("cpu", "cuda"):
        weight = nn.Parameter(start.clone().to(device))
        runs.append((weight, torch.optim.AdamW([weight], lr=0.1, fused=device == "cuda")))
    (on_cpu, unfused), (on_cuda, fused) = runs
    on_cpu.grad = start.square()
    unfused.step()
    load_optimizer_state(fused, unfused.state_dict())
    assert fused.state[on_cuda]["step"].is_cuda
    with torch.no_grad():
        on_cuda.copy_(on_cpu)
    on_cpu.grad, on_cuda.grad = start.clone(), start.cuda()
    unfused.step()
    fused.step()
    torch.testing.assert_close(on_cuda.cpu(), on_cpu)
    load_optimizer_state(unfused, fused.state_dict())
    assert not unfused.state[on_cpu]["step"].is_cuda
