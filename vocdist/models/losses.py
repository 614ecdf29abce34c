"""The classifier's loss: binary cross entropy over the classes, and what may be changed in it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MultilabelLoss:
    """Loss of each image, the mean over its classes.

    Attributes:
        pos_weight: (classes,) factor of each class's positives; None for 1.
        label_smoothing: Targets 0 and 1 become half of this, and 1 minus it.
        focus_positive: Exponent of a positive's distance from its target, a factor of its loss.
        focus_negative: The same for negatives; more than for positives: asymmetric loss (Ridnik
            et al. 2021, section 3.2).
        negative_margin: Negatives' probabilities are lowered by this first, down to 0.
    """

    pos_weight: Tensor | None = None
    label_smoothing: float = 0.0
    focus_positive: float = 0.0
    focus_negative: float = 0.0
    negative_margin: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits and labels (B, classes) in {0, 1} -> (B,) float32."""
        logits = logits.float()
        targets = labels
        if self.label_smoothing:
            targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.focus_positive or self.focus_negative or self.negative_margin:
            return self._asymmetric(logits, targets).mean(dim=1)
        weight = None if self.pos_weight is None else self.pos_weight.to(logits.device)
        by_class = F.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=weight, reduction="none"
        )
        return by_class.mean(dim=1)

    def _asymmetric(self, logits: Tensor, targets: Tensor) -> Tensor:
        probability = logits.sigmoid()
        positive = -F.logsigmoid(logits)
        if self.negative_margin:
            wrong = (probability - self.negative_margin).clamp(min=0)
            negative = -torch.log1p(-wrong.clamp(max=1 - 1e-7))
        else:
            wrong, negative = probability, -F.logsigmoid(-logits)
        positive = positive * (1 - probability) ** self.focus_positive
        negative = negative * wrong**self.focus_negative
        if self.pos_weight is not None:
            positive = positive * self.pos_weight.to(logits.device)
        return targets * positive + (1 - targets) * negative
