"""The learning rate as a pure function of the position: nothing to save, nothing to replay."""

import math


def lr_factor(
    schedule: str, step: int, *, steps_per_epoch: int, epochs: int, warmup_steps: int = 0
) -> float:
    """Factor of the peak learning rate at optimizer step `step`, counted from 0.

    `cosine` falls to 0 over the steps after warm-up (Loshchilov & Hutter 2017, section 3);
    `cosine_by_epoch` keeps one rate within an epoch, as a scheduler stepped once an epoch does.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "cosine_by_epoch":
        progress = (step // steps_per_epoch) / epochs
    elif schedule == "cosine":
        progress = (step - warmup_steps) / max(1, steps_per_epoch * epochs - warmup_steps)
    else:
        raise ValueError(f"unknown schedule {schedule!r}: constant, cosine or cosine_by_epoch")
    return 0.5 * (1 + math.cos(math.pi * progress))
