"""AdamW with a rate for each part, its schedule, and averaged weights (EMA)."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from vocdist.config.training import OptimConfig
from vocdist.models.backbone import in_backbone

# Of the one-cycle policy: share of the steps in which the rate rises, and its first factor.
_RISE = 0.3
_FIRST = 1 / 25


def lr_factor(
    schedule: str, step: int, *, steps_per_epoch: int, epochs: int, warmup_steps: int = 0
) -> float:
    """Factor of the peak learning rate at optimizer step `step`, counted from 0.

    `cosine` falls to 0 over the steps after warm-up (Loshchilov & Hutter 2017, section 3);
    `cosine_by_epoch` keeps one rate within an epoch, as a scheduler stepped once an epoch does.
    `one_cycle` (Smith & Topin 2018) rises from 1/25 over the first 30% of the steps and falls to 0
    over the rest, both by a half cosine; it has no other warm-up.
    """
    if schedule == "one_cycle":
        return _one_cycle(step / (steps_per_epoch * epochs))
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine_by_epoch":
        progress = (step // steps_per_epoch) / epochs
    elif schedule == "cosine":
        progress = (step - warmup_steps) / max(1, steps_per_epoch * epochs - warmup_steps)
    else:
        raise ValueError(
            f"unknown schedule {schedule!r}: constant, cosine, cosine_by_epoch or one_cycle"
        )
    return 0.5 * (1 + math.cos(math.pi * progress))


def _one_cycle(progress: float) -> float:
    if progress < _RISE:
        return _FIRST + (1 - _FIRST) * 0.5 * (1 - math.cos(math.pi * progress / _RISE))
    return 0.5 * (1 + math.cos(math.pi * (progress - _RISE) / (1 - _RISE)))


def build_optimizer(model: nn.Module, optim: OptimConfig, *, fused: bool = False) -> AdamW:
    """AdamW over what learns in a task's model.

    A group for each rate (the backbone's, the rest's) and decay, which carries its `peak_lr`.
    `fused` updates all tensors in one kernel.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        slow = optim.backbone_lr is not None and in_backbone(name)
        lr = optim.backbone_lr if slow and optim.backbone_lr else optim.lr
        # Norms' scales and all biases are vectors; decay would only pull them off their places.
        decays = optim.decay_norms or parameter.ndim > 1
        groups.setdefault((lr, optim.weight_decay if decays else 0.0), []).append(parameter)
    return AdamW(
        [
            {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in groups.items()
        ],
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Give each group the schedule's factor of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def learning_rates(optim: OptimConfig, factor: float) -> dict[str, float]:
    """The rates of a step, by the names that they are logged by.

    `lr` is that of all but the backbone's weights, whatever group of parameters comes first.
    """
    rates = {"lr": optim.lr * factor}
    if optim.backbone_lr is not None:
        rates["backbone_lr"] = optim.backbone_lr * factor
    return rates


# Which of torch's kernels makes the step, and whether the step count lives on the device.
_OF_THE_DEVICE = ("fused", "foreach", "capturable")


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Take over a state dict, but not what belongs to the device that it was saved on.

    Torch takes the groups' flags from the state dict and puts the step counts where those flags
    want them, so a state that was saved on MPS, without fused kernels, would come back as such on
    CUDA. The optimizer's own flags stay, and decide about the step counts.
    """
    groups = [
        {**group, **{flag: mine[flag] for flag in _OF_THE_DEVICE if flag in mine}}
        for group, mine in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    on_device = {
        number
        for group in groups
        for number in group["params"]
        if group.get("fused") or group.get("capturable")
    }
    # Torch moves a count to the device where it belongs, and never back.
    values = {
        number: {
            name: value.cpu()
            if name == "step" and isinstance(value, Tensor) and number not in on_device
            else value
            for name, value in value_by_name.items()
        }
        for number, value_by_name in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": values, "param_groups": groups})


def gradient_norm(
    accelerator: Accelerator, model: nn.Module, *, clip_norm: float | None
) -> Tensor | None:
    """Norm of the gradient over all ranks, clipped to `clip_norm`; None where fp16 scales it."""
    parameters = list(model.parameters())
    norm: Tensor | None = None
    if clip_norm is not None:
        norm = accelerator.clip_grad_norm_(parameters, clip_norm)
    elif accelerator.scaler is None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return norm if accelerator.scaler is None else None


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
