"""The learning rate as a pure function of the position: nothing to save, nothing to replay."""

import math

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
