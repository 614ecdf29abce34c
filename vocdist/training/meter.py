"""Sums of losses that stay on the device until somebody reads them."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


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
        self.synchronize()
        steps = float(self._steps)
        return {name: float(total) / steps for name, total in self._sums.items()} if steps else {}

    def synchronize(self) -> None:
        """Give every rank the mean of all ranks' sums (a collective)."""
        for name in sorted(self._sums):
            self._sums[name] = self._accelerator.reduce(self._sums[name], reduction="mean")

    def reset(self) -> None:
        """Forget all steps that have ended."""
        self._sums, self._steps = {}, self._zero()

    def _zero(self) -> Tensor:
        return torch.zeros((), device=self._accelerator.device)

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint; `synchronize` first, it is saved by one rank for all."""
        sums = {name: total.cpu() for name, total in self._sums.items()}
        return {"sums": sums, "steps": self._steps.cpu()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint."""
        sums, steps = state["sums"], state["steps"]
        if not isinstance(sums, dict) or not isinstance(steps, Tensor):
            raise TypeError("not the state of a LossMeter")
        device = self._accelerator.device
        self._sums = {name: torch.as_tensor(total).to(device) for name, total in sums.items()}
        self._steps = steps.to(device)
