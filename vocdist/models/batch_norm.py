"""BatchNorm over the samples of all processes, on any device.

torch's own SyncBatchNorm does not run on the CPU, and counts samples that only fill an empty share.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` by the mean and variance of all ranks' samples together.

    On one process, and in evaluation, it is `BatchNorm2d`. Each layer costs a small all-reduce in
    the forward and one in the backward pass. Set `counted` (B,) where the samples of a rank may be
    there only to take part: such a batch counts as a whole or not at all.
    """

    counted: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(B, C, H, W) -> the same, normalised."""
        if not self.training or _ranks() == 1:
            return super().forward(input)
        values = input.float()
        mean, var, count = self._over_all_ranks(values)
        self._update_running(mean, var, count)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        shape = (1, -1, 1, 1)
        output = torch.addcmul(shift.float().view(shape), values, scale.float().view(shape))
        return output.to(input.dtype)

    def _over_all_ranks(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C,), biased variance (C,) and number of values () of all ranks, float64."""
        var, mean = torch.var_mean(values, dim=(0, 2, 3), correction=0)
        # In float64, where a difference of squares loses nothing that float32 has.
        var, mean = var.double(), mean.double()
        # Filled, where a number from the host would be a copy that CUDA waits for.
        every = values.new_full((1,), len(values)) if self.counted is None else self.counted.sum()
        own = every.double().view(1) * (values.shape[2] * values.shape[3])
        sums = _SumOverRanks.apply(torch.cat([own * mean, own * (var + mean**2), own]))
        count = sums[-1]
        mean, square = (sums[:-1] / count).chunk(2)
        return mean, (square - mean**2).clamp(min=0), count

    @torch.no_grad()
    def _update_running(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("SyncBatchNorm keeps running statistics with a momentum")
        unbiased = var * (count / (count - 1).clamp(min=1))
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_(unbiased.float(), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


class _SumOverRanks(torch.autograd.Function):
    """Every rank's loss depends on the sum, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        distributed.all_reduce(total)
        return total


def _ranks() -> int:
    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1
