"""The multi-label classifier, a torchvision network with one logit a class, and its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from vocdist.errors import UserError
from vocdist.models.backbone import build_network
from vocdist.models.layers import (
    BatchNorm,
    ImageNetPixels,
    RandomBySample,
    SampleDropout,
    SampleStochasticDepth,
    SyncBatchNorm,
)

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


class Classifier(nn.Module):
    """Which classes are present: uint8 images (B, 3, H, W) -> logits (B, classes)."""

    def __init__(
        self,
        backbone: str,
        classes: int,
        batch_norm_momentum: float | None = None,
        dropout: float | None = None,
        sync_batch_norm: bool = False,
    ) -> None:
        """Build with random weights; `load_weights` on `.network` comes after.

        Raises:
            UserError: `dropout` is given and torchvision's network has none.
        """
        super().__init__()
        self.backbone = backbone
        self.pixels = ImageNetPixels()
        self.network = build_network(backbone)
        replace_last_layer(self.network, classes)
        if batch_norm_momentum is not None:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = batch_norm_momentum
        if dropout is not None:
            _set_dropout(self.network, dropout, backbone)
        _make_independent_of_ranks(self.network, sync_batch_norm)

    def forward(
        self,
        images: Tensor,
        seeds: Tensor | None = None,
        counted: Tensor | None = None,
        color: Tensor | None = None,
    ) -> Tensor:
        """Logits; their sigmoid is the probability of presence.

        In training, dropout and stochastic depth need the samples' `seeds` (B,); `counted` (B,) is
        false where they are there only to let this rank take part. `color`: see `ImageNetPixels`.
        """
        if self.training:
            self._pass_to_layers(seeds, counted)
        logits: Tensor = self.network(self.pixels(images, color=color))
        return logits

    def _pass_to_layers(self, seeds: Tensor | None, counted: Tensor | None) -> None:
        for module in self.network.modules():
            if isinstance(module, RandomBySample):
                module.seeds = seeds
            elif isinstance(module, SyncBatchNorm):
                module.counted = counted


def _make_independent_of_ranks(network: nn.Module, sync_batch_norm: bool) -> None:
    """Put random layers by sample, and BatchNorm over all ranks, in the place of torch's, in place.

    Torch's own draw from the global generator, so that their masks depend on the rest of the batch
    and on what was drawn before.
    """
    for layer, (path, module) in enumerate(list(network.named_modules())):
        replacement: nn.Module
        if isinstance(module, nn.Dropout):
            replacement = SampleDropout(module.p, layer)
        elif isinstance(module, StochasticDepth):
            if module.mode != "row":
                raise ValueError(f"{path}: one mask for a whole batch depends on the ranks")
            replacement = SampleStochasticDepth(module.p, layer)
        elif isinstance(module, nn.BatchNorm2d):
            kind = SyncBatchNorm if sync_batch_norm else BatchNorm
            replacement = kind(module.num_features, module.eps, module.momentum)
        else:
            continue
        owner, _, name = path.rpartition(".")
        setattr(network.get_submodule(owner), name, replacement)


def replace_last_layer(network: nn.Module, classes: int) -> None:
    """Give a torchvision classification model a fresh last layer of `classes` outputs, in place."""
    owner, name = _last_layer(network)
    old = getattr(owner, name)
    setattr(owner, name, nn.Linear(old.in_features, classes))


def _set_dropout(network: nn.Module, share: float, name: str) -> None:
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    if not layers:
        raise UserError(f"model.dropout={share}: {name} has no dropout: leave it null")
    for layer in layers:
        layer.p = share


def _last_layer(network: nn.Module) -> tuple[nn.Module, str]:
    path = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    owner, _, name = path.rpartition(".")
    return network.get_submodule(owner), name
