"""The classifier's loss: binary cross entropy over the classes, and what may be changed in it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TINY = torch.finfo(torch.float32).tiny


class MultilabelLoss(nn.Module):
    """Loss of each image, the mean over its classes.

    Args:
        pos_weight: (classes,) factor of each class's positives; None for 1.
        label_smoothing: Targets 0 and 1 become half of this, and 1 minus it.
        focus_positive: Exponent of a positive's distance from its target, a factor of its loss.
        focus_negative: The same for negatives; more than for positives: asymmetric loss (Ridnik
            et al. 2021, section 3.2).
        negative_margin: Negatives' probabilities are lowered by this first, down to 0.
    """

    def __init__(
        self,
        pos_weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        focus_positive: float = 0.0,
        focus_negative: float = 0.0,
        negative_margin: float = 0.0,
    ) -> None:
        """The weights are a buffer, which moves with the loss; no checkpoint holds it."""
        super().__init__()
        self.register_buffer("pos_weight", pos_weight, persistent=False)
        self.pos_weight: Tensor | None
        self.label_smoothing = label_smoothing
        self.focus_positive = focus_positive
        self.focus_negative = focus_negative
        self.negative_margin = negative_margin

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits and labels (B, classes) in {0, 1} -> (B,) float32; all on the loss's device."""
        logits = logits.float()
        targets = labels
        if self.label_smoothing:
            targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
        if self.focus_positive or self.focus_negative or self.negative_margin:
            return self._asymmetric(logits, targets).mean(dim=1)
        by_class = F.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=self.pos_weight, reduction="none"
        )
        return by_class.mean(dim=1)

    def _asymmetric(self, logits: Tensor, targets: Tensor) -> Tensor:
        # Powers of probabilities by their logarithms: where 1 - p rounds to 0, the gradient of its
        # power below 1 would be inf, and inf * 0 is NaN.
        log_present, log_absent = F.logsigmoid(logits), F.logsigmoid(-logits)
        positive = -log_present * (self.focus_positive * log_absent).exp()
        if self.negative_margin:
            wrong = (logits.sigmoid() - self.negative_margin).clamp(min=0)
            negative = -torch.log1p(-wrong.clamp(max=1 - 1e-7))
            # At 0 for the same reason; `negative` is 0 there, so nothing else changes.
            negative = negative * wrong.clamp(min=_TINY) ** self.focus_negative
        else:
            negative = -log_absent * (self.focus_negative * log_present).exp()
        if self.pos_weight is not None:
            positive = positive * self.pos_weight
        return targets * positive + (1 - targets) * negative
