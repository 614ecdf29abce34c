"""A step with gradients at fixed addresses is the step of accelerate's backward; when which."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from device_steps import FP16, RECIPES, steps_of, take, trainer_of, values_of
from torch import nn

from vocdist.config.training import RuntimeConfig
from vocdist.data.batch import Batch
from vocdist.errors import UserError
from vocdist.training.capture import BatchFunction, CaptureError, Outputs
from vocdist.training.loop import Trainer
from vocdist.training.step import Backward, FixedGradients, FixedStep, graphed, plan_capture

AUTO = RuntimeConfig()


@pytest.fixture(autouse=True)
def fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps one precision for a whole process; and torch its threads."""
    threads = torch.get_num_threads()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def fixed(trainer: Trainer, **more: object) -> FixedStep:
    """The step that would be captured, for a trainer that has another one."""
    return FixedStep(
        trainer.task.model,
        lambda model, batch: trainer.task.losses(model, trainer.train_loader.materialised(batch)),
        whole_step=trainer.train.global_batch,
        boxes=lambda: 11,  # more than any image has
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("recipe", ["classifier", "notebook", "images", "resident", "resident rpn"])
def test_fixed_gradients_train_to_the_same_bits(
    recipe: str, demo_shards: Path, tmp_path: Path
) -> None:
    # In two parts a step, of which the last is smaller; all boxes padded to one number.
    more = ["train.global_batch=8", "data.limit_train=20"]
    found = []
    for name in ("backward", "fixed"):
        AcceleratorState._reset_state(reset_partial_state=True)
        with trainer_of(recipe, demo_shards, tmp_path / name, "cpu", more) as trainer:
            assert isinstance(trainer.step, Backward)
            if name == "fixed":
                trainer.step = fixed(trainer)
            start = values_of(trainer.task.model)
            for parts in steps_of(trainer):
                take(trainer, parts)
            found.append(values_of(trainer.task.model))
    by_backward, by_hand = found
    for key, value in by_backward.items():
        assert torch.equal(by_hand[key], value), key
    assert any(not torch.equal(value, start[key]) for key, value in by_backward.items())


def test_deterministic_algorithms_are_asked_for_and_a_step_has_them(
    demo_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    found = []
    for name in ("false", "true"):
        AcceleratorState._reset_state(reset_partial_state=True)
        more = [f"runtime.deterministic={name}"]
        with trainer_of("rpn", demo_shards, tmp_path / name, "cpu", more) as trainer:
            assert torch.are_deterministic_algorithms_enabled() is (name == "true")
            take(trainer, steps_of(trainer)[0])
            found.append(values_of(trainer.task.model))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert all(torch.equal(found[1][key], value) for key, value in found[0].items())


class FailsToRecord:
    """Stands for a graph that records a few batches and then fails, as CUDA may."""

    def __init__(self, function: BatchFunction, whole: int) -> None:
        self._function, self.left, self.calls = function, whole, 0

    def __call__(self, batch: Batch) -> Outputs:
        self.calls += 1
        if not self.left:
            raise CaptureError("operation not permitted when stream is capturing")
        self.left -= 1
        return self._function(batch)


def test_where_capturing_fails_one_line_says_so_and_the_run_goes_on(
    demo_shards: Path, tmp_path: Path
) -> None:
    more = ["train.accumulate=1", "data.limit_train=18"]
    lines: list[str] = []
    made: list[FailsToRecord] = []

    def graph(function: BatchFunction) -> BatchFunction:
        made.append(FailsToRecord(function, whole=2))
        return made[-1]

    with trainer_of("classifier", demo_shards, tmp_path / "1", "cpu", more) as trainer:
        trainer.step = fixed(trainer, graph=graph, tell=lines.append)
        steps = steps_of(trainer)
        assert [parts[-1].step_samples for parts in steps] == [4, 4, 4, 4, 2]
        # The smaller last batch first: it is no reason to record anything.
        for parts in (steps[-1], *steps[:-1]):
            take(trainer, parts)
        failing = values_of(trainer.task.model)
    assert made[0].calls == 3
    assert lines == [
        "runtime.cuda_graph: steps run eagerly, capturing one failed (operation not permitted "
        "when stream is capturing)"
    ]
    AcceleratorState._reset_state(reset_partial_state=True)
    with trainer_of("classifier", demo_shards, tmp_path / "2", "cpu", more) as trainer:
        for parts in (steps[-1], *steps[:-1]):
            take(trainer, parts)
        plain = values_of(trainer.task.model)
    assert all(torch.equal(failing[name], value) for name, value in plain.items())


def test_where_a_graph_is_required_a_capture_that_fails_ends_the_run(
    demo_shards: Path, tmp_path: Path
) -> None:
    more = ["train.accumulate=1", "data.limit_train=18"]
    with trainer_of("classifier", demo_shards, tmp_path / "1", "cpu", more) as trainer:
        trainer.step = fixed(trainer, graph=lambda f: FailsToRecord(f, whole=0), required=True)
        with pytest.raises(UserError, match="cuda_graph=true, but capturing a step failed"):
            take(trainer, steps_of(trainer)[0])


@pytest.mark.parametrize(
    ("own", "most", "count"), [(1, 56, 8), (9, 56, 16), (40, 56, 56), (3, 5, 5)]
)
def test_boxes_are_padded_to_few_numbers(own: int, most: int, count: int) -> None:
    seen = []

    def losses(model: nn.Module, batch: Batch) -> Outputs:
        seen.append(batch.targets["boxes"].shape[1])
        return {"loss": next(model.parameters()).sum().expand(2)}

    step = FixedStep(nn.Linear(1, 1), losses, whole_step=2, boxes=lambda: most)
    targets = {"boxes": torch.zeros(2, own, 4), "box_mask": torch.ones(2, own, dtype=torch.bool)}
    pixels, numbers, weights = torch.zeros(2, 3, 4, 4), torch.arange(2), torch.ones(2)
    step.part(Batch((pixels,), (4, 4), targets, numbers, weights, numbers, True, 2))
    assert seen == [count]


def test_a_parameter_without_a_part_in_the_loss_keeps_no_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(3, 5)), nn.Parameter(torch.ones(2))
    gradients = FixedGradients([unused, used])
    gradients.add((used * 2).sum())
    gradients.add(used.sum())
    gradients.hand_over()
    assert unused.grad is None
    assert used.grad is not None and torch.equal(used.grad, torch.full((3, 5), 3.0))
    gradients.clear()
    assert not used.grad.any()


def test_gradients_lie_as_the_parameters_do() -> None:
    # Fused optimizers refuse others.
    conv = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    parameters = list(conv.parameters())
    gradients = FixedGradients(parameters)
    gradients.add(conv(torch.ones(1, 3, 4, 4)).square().sum())
    gradients.hand_over()
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
    with pytest.raises(ValueError, match="several types"):
        FixedGradients([nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1).double())])
    with pytest.raises(ValueError, match="gaps"):
        FixedGradients([nn.Parameter(torch.ones(4, 4)[:, ::2])])


@pytest.mark.parametrize(
    ("change", "processes", "synchronised", "captured", "reason"),
    [
        ({}, 1, True, True, ""),
        ({}, 2, False, True, ""),
        ({"mixed_precision": "bf16"}, 1, False, True, ""),
        ({"cuda_graph": True}, 1, False, True, ""),
        ({"cuda_graph": False}, 1, False, False, ""),
        ({}, 2, True, False, "model.sync_batch_norm=false"),
        ({"mixed_precision": "fp16"}, 1, False, False, "use bf16"),
        ({"detect_anomaly": True}, 1, False, False, "detect_anomaly"),
        ({"compile": True}, 1, False, False, "graphs of its own"),
    ],
)
def test_what_is_captured_on_cuda(
    change: dict[str, object], processes: int, synchronised: bool, captured: bool, reason: str
) -> None:
    runtime = replace(AUTO, **change)  # type: ignore[arg-type]
    machine = {"processes": processes, "synchronised": synchronised}
    plan = plan_capture(runtime, device="cuda", **machine)  # type: ignore[arg-type]
    assert plan.captured is captured
    assert reason in plan.reason and bool(plan.reason) is bool(reason)
    if reason:
        forced = replace(runtime, cuda_graph=True)
        with pytest.raises(UserError, match=r"runtime.cuda_graph=true, but .*auto"):
            plan_capture(forced, device="cuda", **machine)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_without_cuda_nothing_is_captured_and_auto_says_nothing(device: str) -> None:
    machine = {"device": device, "processes": 1, "synchronised": False}
    assert plan_capture(AUTO, **machine) == (False, "")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"no CUDA graphs on {device}"):
        plan_capture(replace(AUTO, cuda_graph=True), **machine)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", [*RECIPES, *FP16])
def test_captured_equals_eager_on_cuda(recipe: str, demo_shards: Path, tmp_path: Path) -> None:
    # Three passes: graphs are recorded in the second, and replayed in the third.
    found = []
    for graph in ("false", "auto"):
        AcceleratorState._reset_state(reset_partial_state=True)
        more = [f"runtime.cuda_graph={graph}", "runtime.deterministic=true"]
        with trainer_of(recipe, demo_shards, tmp_path / graph, "cuda", more) as trainer:
            captured = graph == "auto" and recipe not in FP16
            assert isinstance(trainer.step, FixedStep) is captured
            steps = steps_of(trainer)
            for parts in steps * 3:
                take(trainer, parts)
            if captured:
                assert trainer.step._graphed is not None  # type: ignore[attr-defined]
            found.append(values_of(trainer.task.model))
    eager, replayed = found
    for key, value in eager.items():
        # The same kernels, but a sum over parts that begins with 0; in bf16 casts may differ.
        tolerance = 1e-2 if "16" in recipe else 1e-4
        difference = (replayed[key].float() - value.float()).norm()
        assert difference <= tolerance * (value.float().norm() + 1), key


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_function_that_waits_is_not_captured_and_computes_all_the_same() -> None:
    device = torch.device("cuda")
    one = torch.ones(2, device=device)
    batch = Batch((one,), (1, 1), {}, one.long(), one, one.long(), True, 2)
    function = graphed(device)(lambda b: {"loss": b.images * b.images.sum().item()})
    assert function(batch)["loss"].tolist() == [2.0, 2.0]
    with pytest.raises(CaptureError):
        function(batch)
    assert (one + 1).tolist() == [2.0, 2.0]  # the device goes on
