"""Dropout whose masks belong to the samples: the same on any number of processes, and on resume."""

from torch import Tensor, nn

from vocdist.random_keys import random_keys


class SampleDropout(nn.Module):
    """Drops features of (B, ...) by a hash of each sample's seed.

    A mask depends on nothing but that seed: not on the rest of the batch, the rank, the device, or
    what was drawn before. Set `seeds` (B,) before each forward pass in training.
    """

    def __init__(self, p: float, layer: int) -> None:
        """`p` is the share that is dropped; `layer` tells a sample's masks apart."""
        super().__init__()
        self.p = p
        self.layer = layer
        self.seeds: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """The features, some of them 0 and the others larger by 1 / (1 - p)."""
        if not self.training or not self.p:
            return features
        if self.seeds is None:
            raise ValueError("dropout in training needs the seeds of the samples")
        # Far from the seeds of other samples, which are random 62-bit numbers.
        keys = random_keys(self.seeds ^ self.layer, features[0].numel())
        kept = (keys >= self.p).view(features.shape).to(features.dtype)
        return features * (kept / (1 - self.p))

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"p={self.p}, layer={self.layer}"
