"""Sums of losses that stay on the device until somebody reads them."""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vocdist.training.accelerator import gather_lists


class LossMeter:
    """Mean losses over the optimizer steps since the last `reset`.

    What is added is each part's `(per_sample * weights).sum()`, so a step's parts and ranks add up
    to the mean over its global batch. A step counts once it has ended, and not if it was skipped.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        """Start empty."""
        self._accelerator = accelerator
        self._open: dict[str, Tensor] = {}  # of the step under way
        self._sums: dict[str, Tensor] = {}
        self._steps = self._zero()

    def add(self, losses: Mapping[str, Tensor], weights: Tensor) -> None:
        """Add one part's per-sample losses (B,) with their weights (B,)."""
        for name, values in losses.items():
            part = (values.detach().float() * weights).sum()
            self._open[name] = self._open[name] + part if name in self._open else part

    def end_step(self, skipped: Tensor) -> None:
        """Count the step under way unless `skipped`, () float32, is 1; the same on every rank."""
        for name, total in self._open.items():
            # Not by a factor: 0 * NaN is NaN.
            counted = total.masked_fill(skipped > 0, 0.0)
            self._sums[name] = self._sums[name] + counted if name in self._sums else counted
        self._open = {}
        self._steps = self._steps + 1 - skipped

    def means(self) -> dict[str, float]:
        """Means over steps and ranks (a collective, and a wait); empty without a counted step."""
        steps = float(self._steps)
        if not steps:
            return {}
        totals = {
            name: float(self._accelerator.reduce(self._sums[name], reduction="mean"))
            for name in sorted(self._sums)
        }
        return {name: totals[name] / steps for name in self._sums}

    def reset(self) -> None:
        """Forget all steps that have ended."""
        self._sums, self._steps = {}, self._zero()

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self._accelerator.device)

    def state_dict(self) -> dict[str, Any]:
        """The sums of every rank, for a checkpoint (a collective).

        Each rank's own, and left as they are: what they add up to later depends, in its last digit,
        on where they were added up before.
        """
        own = {name: float(total) for name, total in self._sums.items()}
        return {"sums": gather_lists(self._accelerator, [own]), "steps": float(self._steps)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, with this rank's sums or, on another number, with their mean."""
        of_ranks: list[dict[str, float]] = state["sums"]
        if len(of_ranks) == self._accelerator.num_processes:
            own = of_ranks[self._accelerator.process_index]
        else:
            own = {name: sum(r[name] for r in of_ranks) / len(of_ranks) for name in of_ranks[0]}
        self._sums = {name: self._zero() + total for name, total in own.items()}
        self._steps = self._zero() + state["steps"]
