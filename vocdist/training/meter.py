"""Sums of losses that stay on the device until somebody reads them."""

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor


class LossMeter:
    """Mean losses over the optimizer steps since the last `reset`.

    What is added is each part's `(per_sample * weights).sum()`, so a step's parts and ranks add up
    to the mean over its global batch.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        """Start empty."""
        self._accelerator = accelerator
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, losses: Mapping[str, Tensor], weights: Tensor, *, ends_step: bool) -> None:
        """Add one part's per-sample losses (B,) with their weights (B,)."""
        for name, values in losses.items():
            part = (values.detach().float() * weights).sum()
            self._sums[name] = self._sums[name] + part if name in self._sums else part
        self._steps += ends_step

    def means(self) -> dict[str, float]:
        """Means over steps and ranks (a collective, and the only wait for the device)."""
        self.synchronize()
        return {name: float(total) / max(1, self._steps) for name, total in self._sums.items()}

    def synchronize(self) -> None:
        """Give every rank the mean of all ranks' sums (a collective)."""
        for name in sorted(self._sums):
            self._sums[name] = self._accelerator.reduce(self._sums[name], reduction="mean")

    def reset(self) -> None:
        """Forget everything."""
        self._sums, self._steps = {}, 0

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint; `synchronize` first, it is saved by one rank for all."""
        return {"sums": {k: v.cpu() for k, v in self._sums.items()}, "steps": self._steps}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint."""
        sums, steps = state["sums"], state["steps"]
        if not isinstance(sums, dict) or not isinstance(steps, int):
            raise TypeError("not the state of a LossMeter")
        device = self._accelerator.device
        self._sums = {name: torch.as_tensor(total).to(device) for name, total in sums.items()}
        self._steps = steps
