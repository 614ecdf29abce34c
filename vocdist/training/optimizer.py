"""AdamW over groups of parameters: a rate for the backbone and one for the rest, decay or none."""

from torch import nn
from torch.optim import AdamW

from vocdist.config.training import OptimConfig
from vocdist.models.weights import in_backbone


def build_optimizer(model: nn.Module, optim: OptimConfig, *, fused: bool = False) -> AdamW:
    """AdamW over what learns in a task's model.

    Each group carries its `peak_lr`, which the loop multiplies by the schedule's factor. `fused`
    updates all tensors in one kernel.
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
