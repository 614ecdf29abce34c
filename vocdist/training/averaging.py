"""An exponential moving average of the weights: steadier than what single steps leave."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's learning parameters over the steps so far.

    BatchNorm's statistics are averages already and stay the model's own. Parameters are equal on
    all ranks, so their average is too. Without a `decay` nothing is averaged: the model's own
    weights are what is measured and kept.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        """Start from the parameters as they are, on their device."""
        self._decay = decay
        averaged = [] if decay is None else list(model.named_parameters())
        self._names = [name for name, p in averaged if p.requires_grad]
        self._live = [p for _, p in averaged if p.requires_grad]
        self._average = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self, global_step: int) -> None:
        """Take in the parameters after optimizer step `global_step`, counted from 1.

        The first steps weigh more, so that the random start is soon forgotten.
        """
        if self._decay is None:
            return
        decay = min(self._decay, (1 + global_step) / (10 + global_step))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._live], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context the model holds the average instead of its own parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def live_parameters(self) -> dict[str, Tensor]:
        """Copies of what training goes on from, on the CPU, by name; call outside of `applied`."""
        pairs = zip(self._names, self._live, strict=True)
        return {name: parameter.detach().cpu().clone() for name, parameter in pairs}

    @torch.no_grad()
    def restore(self, live: Mapping[str, Tensor]) -> None:
        """Take the model's weights as the average, and as live ones those that are given."""
        for name, parameter, average in zip(self._names, self._live, self._average, strict=True):
            average.copy_(parameter)
            if name in live:
                parameter.copy_(live[name])

    @torch.no_grad()
    def keep(self) -> None:
        """Make the average the model's own weights, when training is over."""
        for parameter, average in zip(self._live, self._average, strict=True):
            parameter.copy_(average)

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, average in zip(self._live, self._average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)
