"""Steps whose loss or gradient is not finite: agreed on by all ranks, skipped, recorded."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vocdist.data.batch import Batch
from vocdist.distributed.processes import gather_lists
from vocdist.errors import SharedError

NON_FINITE = "non_finite.jsonl"


@dataclass(frozen=True)
class NonFiniteStep:
    """A step that was not applied.

    Attributes:
        number: Its global step, counted from 1.
        norm: Norm of its gradient; None in fp16, where the scaler has that to itself.
        losses: (sample, loss) over all ranks, in the order of the samples.
    """

    number: int
    norm: float | None
    losses: list[tuple[int, float]]

    @property
    def cause(self) -> str:
        """What was wrong, in words."""
        bad = sum(not math.isfinite(loss) for _, loss in self.losses)
        if bad:
            return f"the loss of {bad} of its {len(self.losses)} samples is not finite"
        return f"its gradient is not finite (norm {self.norm})"


def write_non_finite_step(path: Path, step: NonFiniteStep, key_of: Callable[[int], str]) -> None:
    """Add a line of JSON: the step, and its samples with their keys and losses."""
    row = {
        "global_step": step.number,
        "cause": step.cause,
        "gradient_norm": _plain(step.norm),
        "samples": [
            {"key": key_of(index), "index": index, "loss": _plain(loss)}
            for index, loss in step.losses
        ],
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _plain(value: float | None) -> float | str | None:
    # JSON has no word for inf and NaN.
    return value if value is None or math.isfinite(value) else str(value)


def finite_or_nan(loss: Tensor) -> Tensor:
    """The same loss, whose gradient is NaN where the loss is not finite.

    Times 1 changes no bit, and 0 * inf and 0 * NaN are NaN.
    """
    return loss * (loss.detach() * 0 + 1)


# fp16's factor of the loss begins at 2^16 and is halved at each overflow: this small, no overflow
# explains what is not finite.
SMALLEST_SCALE = 2.0**-10


@dataclass
class TakenStep:
    """What is kept of a step until its flag is read; tensors stay on the device.

    Attributes:
        parts: Indices, losses and whether each counts, (B,) each.
        number: Its global step, counted from 1.
        norm: Of its gradient.
        flag: 1 where it was bad.
    """

    parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    number: int = 0
    norm: Tensor | None = None
    flag: Tensor = field(default_factory=lambda: torch.zeros(()))


class FiniteGuard:
    """Watches and takes the optimizer steps of one rank.

    A rank whose loss is not finite makes its whole gradient NaN, see `finite_or_nan`; the
    all-reduce carries that to every rank, so the norm of the gradient tells all ranks the same
    without a message of its own. In fp16 the scaler looks after the gradient, since an overflow is
    part of its search for a scale: there the loss alone is judged, and the ranks' flags are added;
    and the search ends where no scale can be the reason any more.

    Args:
        accelerator: The run's.
        optimizer: As prepared by it.
        statistics: Buffers that a forward pass changes, and a step that is not taken must not.
        stops: Whether a bad step ends the run; else it is skipped and counted.
        path: Where bad steps are written down.
        key_of: Key of a train sample by its index.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        optimizer: torch.optim.Optimizer,
        *,
        statistics: Sequence[Tensor],
        stops: bool,
        path: Path,
        key_of: Callable[[int], str],
    ) -> None:
        """Begin with no step."""
        self.skipped = 0
        self._accelerator = accelerator
        self._optimizer = optimizer
        self._stops = stops
        # By type, so that a GPU makes one copy of them all and not a hundred small ones.
        kinds = [
            [s for s in statistics if s.dtype == kind] for kind in {s.dtype for s in statistics}
        ]
        self._kept = [(of_kind, [s.clone() for s in of_kind]) for of_kind in kinds]
        self._path = path
        self._key_of = key_of
        self._step = TakenStep()
        self._unread: list[TakenStep] = []

    def begin_step(self) -> None:
        """Remember what must be put back if the step is not taken."""
        for statistics, before in self._kept:
            torch._foreach_copy_(before, statistics)

    def abandon_step(self) -> None:
        """Forget the parts of a step that was broken off."""
        self._step = TakenStep()
        for statistics, before in self._kept:
            torch._foreach_copy_(statistics, before)

    def add_part(self, batch: Batch, losses: Tensor) -> None:
        """Keep a part's per-sample losses (B,)."""
        self._step.parts.append((batch.indices, losses.detach(), batch.weights > 0))

    def take_step(self, number: int, norm: Tensor | None) -> Tensor:
        """Update the weights, unless the step is bad: a tensor () float32 that is then 1, else 0.

        `number` counts the steps from 1; `norm` is the gradient's over all ranks, None in fp16.
        """
        step, self._step = self._step, TakenStep()
        step.number, step.norm, step.flag = number, norm, self._judge(step, norm)
        self._unread.append(step)
        # By the groups, which choose the kernel: only a fused one takes a flag.
        fused = all(group.get("fused") for group in self._optimizer.param_groups)
        if fused and norm is not None:
            # As the scaler tells it of an overflow: it skips on the device, unseen by the host.
            inner: Any = getattr(self._optimizer, "optimizer", self._optimizer)
            inner.found_inf = step.flag
            self._optimizer.step()
        elif norm is None or not step.flag.item():
            self._optimizer.step()
        # A run that stops never uses what its bad step has left behind.
        if not self._stops:
            for statistics, before in self._kept:
                pairs = zip(before, statistics, strict=True)
                kept = [torch.where(step.flag > 0, old, new) for old, new in pairs]
                torch._foreach_copy_(statistics, kept)
        return step.flag

    def check_steps(self) -> None:
        """Look at the steps since the last call (a collective, and a wait for the device).

        Raises:
            SharedError: One of them was bad, and the run is to stop; or fp16 finds no scale.
        """
        scaler = self._accelerator.scaler
        # Only on a wait that is made anyway, and only where there are steps that were taken since.
        if scaler is not None and self._unread and scaler.get_scale() < SMALLEST_SCALE:
            raise SharedError(
                f"by step {self._unread[-1].number} fp16's loss scale has fallen to "
                f"{scaler.get_scale():.2g}, and the gradient is still not finite: lower optim.lr, "
                f"set train.clip_norm or use runtime.mixed_precision=bf16 or fp32"
            )
        for bad in self._read():
            if self._accelerator.is_main_process:
                write_non_finite_step(self._path, bad, self._key_of)
            if self._stops:
                raise SharedError(
                    f"step {bad.number} was not taken: {bad.cause}; its samples are in "
                    f"{self._path}. Lower optim.lr, set train.clip_norm or use "
                    f"runtime.mixed_precision=fp32; or go on without such steps: start it again "
                    f"with train.non_finite=skip. The last checkpoint is good"
                )
            self.skipped += 1

    def summary(self, steps: int) -> str:
        """How many of a run's `steps` were skipped, and where they are written down."""
        return (
            f"{self.skipped} of {steps} steps were skipped, their loss or gradient was not finite: "
            f"{self._path}"
        )

    def _judge(self, step: TakenStep, norm: Tensor | None) -> Tensor:
        if norm is not None:
            return (~torch.isfinite(norm)).float()
        own = torch.stack([~torch.isfinite(losses).all() for _, losses, _ in step.parts]).any()
        total: Tensor = self._accelerator.reduce(own.float(), reduction="sum")
        return total.clamp(max=1)

    def _read(self) -> list[NonFiniteStep]:
        steps, self._unread = self._unread, []
        if not steps or not torch.stack([step.flag for step in steps]).sum().item():
            return []
        return [self._gathered(step) for step in steps if step.flag.item()]

    def _gathered(self, step: TakenStep) -> NonFiniteStep:
        own: list[tuple[int, float]] = []
        for indices, losses, counted in step.parts:
            own += zip(indices[counted].tolist(), losses[counted].tolist(), strict=True)
        norm = None if step.norm is None else float(step.norm)
        return NonFiniteStep(step.number, norm, sorted(gather_lists(self._accelerator, own)))
