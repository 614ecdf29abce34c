"""AdamW over groups of parameters, its rates, and the norm of what it is given."""

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from vocdist.config.training import OptimConfig
from vocdist.models.weights import in_backbone


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
