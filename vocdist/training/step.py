"""The part of a step that a device computes by itself: from a batch to losses and gradients.

`Backward` is that part as accelerate and DDP make it, on any device. `FixedStep` is the same
computation with its gradients in memory that never moves, so that a CUDA graph can be made of it
(`capture.py`); `plan_capture` says which of the two a run takes. What the host changes from step
to step (rate, averaging, skipped steps, sums of the log) is outside of both.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from vocdist.config import TaskConfig
from vocdist.config.training import RuntimeConfig
from vocdist.data.batch import Batch
from vocdist.data.loader import BatchLoader
from vocdist.distributed.processes import learning_batch_norms
from vocdist.errors import UserError
from vocdist.models.layers import SyncBatchNorm
from vocdist.tasks.task import Task
from vocdist.training.capture import BatchFunction, CaptureError, GraphedFunction, Outputs
from vocdist.training.guard import finite_or_nan

Losses = Callable[[nn.Module, Batch], dict[str, Tensor]]

# Boxes that an image is padded to at least, see `FixedStep`.
_LEAST_BOXES = 8


class CapturePlan(NamedTuple):
    """Whether steps are captured; `reason` says in words why not, empty where none is needed."""

    captured: bool
    reason: str = ""


def plan_capture(
    runtime: RuntimeConfig,
    *,
    device: str,
    processes: int,
    synchronised: bool,
) -> CapturePlan:
    """Whether the steps of a run become CUDA graphs: a function of settings and the machine.

    Args:
        runtime: The settings.
        device: `cuda`, `mps` or `cpu`.
        processes: Of the run.
        synchronised: The model's BatchNorm layers exchange statistics between processes.

    Raises:
        UserError: `runtime.cuda_graph=true` where no step can be captured.
    """
    wanted = runtime.cuda_graph
    if wanted is False:
        return CapturePlan(False)
    reason = ""
    if device != "cuda":
        reason = f"there are no CUDA graphs on {device}"
    elif runtime.mixed_precision == "fp16":
        reason = "fp16's loss scale is decided by the host: use bf16"
    elif runtime.detect_anomaly:
        reason = "runtime.detect_anomaly looks at each gradient"
    elif runtime.compile:
        reason = "runtime.compile makes graphs of its own"
    elif processes > 1 and synchronised:
        reason = "BatchNorm layers exchange statistics: set model.sync_batch_norm=false"
    if reason and wanted is True:
        raise UserError(f"runtime.cuda_graph=true, but {reason}; or set runtime.cuda_graph=auto")
    # Where there is no CUDA device nobody expects a graph.
    return CapturePlan(not reason, reason if device == "cuda" else "")


class Step(Protocol):
    """Computes the parts of a step."""

    def part(self, batch: Batch) -> Outputs:
        """Losses (B,) of a part, its gradients added up; after the last, `.grad` has their sum."""
        ...


class Backward:
    """Parts of a step by `Accelerator.backward`; DDP averages the gradients."""

    def __init__(self, accelerator: Accelerator, model: nn.Module, losses: Losses) -> None:
        """`model` is as prepared by the accelerator."""
        self._accelerator, self._model, self._losses = accelerator, model, losses

    def part(self, batch: Batch) -> Outputs:
        """See `Step.part`."""
        # Only the last part of a step waits for the other ranks' gradients.
        with nullcontext() if batch.ends_step else self._accelerator.no_sync(self._model):
            losses = self._losses(self._model, batch)
            self._accelerator.backward(weighted(losses, batch))
        return losses


def weighted(losses: Outputs, batch: Batch) -> Tensor:
    """What is differentiated of a part's losses (B,): a tensor ()."""
    return finite_or_nan((losses["loss"] * batch.weights).sum())


class FixedGradients:
    """The gradients of parameters as views of one tensor that stays where it is.

    Raises:
        ValueError: The parameters are of several types, or have gaps in memory.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make room, laid out as the parameters are, as fused optimizers ask for."""
        self._parameters = list(parameters)
        self._used: set[int] = set()
        kinds = {(p.dtype, p.device) for p in parameters}
        if len(kinds) != 1:
            raise ValueError(f"parameters of several types or devices: {sorted(map(str, kinds))}")
        for parameter in parameters:
            if torch.empty_like(parameter).stride() != parameter.stride():
                raise ValueError(f"a parameter of shape {tuple(parameter.shape)} has gaps")
        # Each begins at a multiple of 256 bytes, as one of torch's own allocations does.
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + -(-parameter.numel() // 64) * 64)
        ((dtype, device),) = kinds
        self._flat = torch.zeros(starts[-1], dtype=dtype, device=device)
        self._views = [
            self._flat.as_strided(parameter.shape, parameter.stride(), start)
            for parameter, start in zip(parameters, starts, strict=False)
        ]

    def clear(self) -> None:
        """Begin a sum of gradients."""
        self._flat.zero_()

    def add(self, total: Tensor) -> None:
        """Add the gradients of a tensor (); hooks of the parameters, as DDP's, are not called."""
        found = torch.autograd.grad(total, self._parameters, allow_unused=True)
        pairs = [(i, gradient) for i, gradient in enumerate(found) if gradient is not None]
        self._used.update(i for i, _ in pairs)
        torch._foreach_add_([self._views[i] for i, _ in pairs], [gradient for _, gradient in pairs])

    def average(self) -> None:
        """Take the mean over all processes (a collective)."""
        distributed.all_reduce(self._flat)
        self._flat.div_(distributed.get_world_size())

    def hand_over(self) -> None:
        """Let `.grad` be these, of all parameters that have taken part in any loss."""
        for i in self._used:
            self._parameters[i].grad = self._views[i]


class FixedStep:
    """Parts of a step with gradients at fixed addresses, from CUDA graphs where these are given.

    All processes reduce their gradients alike, in one eager all-reduce, whether a graph was
    replayed or the same function called: so none has to know what another could capture.

    Args:
        model: Not wrapped by DDP.
        losses: The task's.
        whole_step: Samples of a step that is worth a graph; the smaller last one of an epoch runs
            eagerly.
        boxes: Says how many boxes the image with the most has; asked once, where batches have
            boxes.
        processes: Of the run.
        graph: From the function to its graphed self, as `graphed` makes it; None: called as it is.
        required: A step that cannot be recorded is an error; else it runs eagerly, with a line.
        tell: Takes one line for the user.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Losses,
        *,
        whole_step: int,
        boxes: Callable[[], int],
        processes: int = 1,
        graph: Callable[[BatchFunction], BatchFunction] | None = None,
        required: bool = False,
        tell: Callable[[str], None] = print,
    ) -> None:
        """Make room for the gradients."""
        self._model, self._losses = model, losses
        self._whole_step = whole_step
        self._boxes = boxes
        self._most_boxes: int | None = None
        self._processes = processes
        self._gradients = FixedGradients([p for p in model.parameters() if p.requires_grad])
        self._graphed = None if graph is None else graph(self._compute)
        self._required, self._tell = required, tell
        self._begun = False

    def part(self, batch: Batch) -> Outputs:
        """See `Step.part`."""
        if not self._begun:
            self._gradients.clear()
        self._begun = not batch.ends_step
        losses = self._run(self._padded(batch))
        if batch.ends_step:
            if self._processes > 1:
                self._gradients.average()
            self._gradients.hand_over()
        return losses

    def _compute(self, batch: Batch) -> Outputs:
        """Pixels, forward, loss, backward: all that a graph holds."""
        losses = self._losses(self._model, batch)
        self._gradients.add(weighted(losses, batch))
        return {name: loss.detach() for name, loss in losses.items()}

    def _run(self, batch: Batch) -> Outputs:
        if self._graphed is None or batch.step_samples != self._whole_step:
            return self._compute(batch)
        try:
            return self._graphed(batch)
        except CaptureError as error:
            failure = str(error)
        # Not in the handler: the error holds what the capture had allocated.
        self._graphed = None
        if self._required:
            raise UserError(
                f"runtime.cuda_graph=true, but capturing a step failed ({failure}); set "
                f"runtime.cuda_graph=auto"
            )
        self._tell(f"runtime.cuda_graph: steps run eagerly, capturing one failed ({failure})")
        return self._compute(batch)

    def _padded(self, batch: Batch) -> Batch:
        if "boxes" not in batch.targets:
            return batch
        if self._most_boxes is None:
            self._most_boxes = self._boxes()
        # To a power of two: few shapes to record, and little work on boxes that are not there.
        own = batch.targets["boxes"].shape[1]
        count = max(_LEAST_BOXES, 1 << max(0, own - 1).bit_length())
        return batch.with_boxes(max(own, min(count, self._most_boxes)))


def build_step(
    config: TaskConfig,
    task: Task,
    model: nn.Module,
    accelerator: Accelerator,
    loader: BatchLoader,
) -> Step:
    """What computes the parts of a training's steps; says in a line why none is captured.

    `model` is as prepared by the accelerator, `loader` the train split's.

    Raises:
        UserError: See `plan_capture`.
    """
    device, processes = accelerator.device, accelerator.num_processes
    plan = plan_capture(
        config.runtime,
        device=device.type,
        processes=processes,
        synchronised=any(isinstance(m, SyncBatchNorm) for m in learning_batch_norms(task.model)),
    )
    if plan.reason:
        accelerator.print(f"runtime.cuda_graph: steps run eagerly, {plan.reason}")

    def say(line: str) -> None:
        # Of any rank: what one could not record, others may have.
        who = f"rank {accelerator.process_index}: " if processes > 1 else ""
        print(f"{who}{line}", file=sys.stderr, flush=True)

    def losses(network: nn.Module, batch: Batch) -> Outputs:
        return task.losses(network, loader.materialised(batch))

    if not plan.captured:
        return Backward(accelerator, model, losses)
    return FixedStep(
        task.model,
        losses,
        whole_step=loader.global_batch,
        boxes=lambda: most_boxes(loader.dataset.reader.box_counts),
        processes=processes,
        graph=graphed(device),
        required=config.runtime.cuda_graph is True,
        tell=say,
    )


def most_boxes(box_counts: np.ndarray) -> int:
    """Boxes of the image that has the most, at least 1, of (N,) images."""
    return int(box_counts.max(initial=1))


def graphed(device: torch.device) -> Callable[[BatchFunction], BatchFunction]:
    """What makes CUDA graphs of a function of batches."""
    return lambda function: GraphedFunction(function, device)
