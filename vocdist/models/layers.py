"""Layers exact on any number of processes, their random numbers, and the form of a graph."""

from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

_LOW_32 = 0xFFFFFFFF
# The multipliers of Wellons' lowbias32 (2018, "Prospecting for hash functions"), the second as a
# signed number: a product with 32 bits then fits int64, so nothing relies on overflow.
_FACTOR_1 = 0x7FEB352D
_FACTOR_2 = 0x846CA68B - 2**32
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Rec. 601: the gray that torchvision's colour transforms blend with.
LUMA = (0.2989, 0.587, 0.114)


def random_keys(seeds: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) from a hash of (seed, index): seeds (B,) int64 -> (B, count).

    No generator is involved, so what is drawn for an image depends on its seed alone, never on
    its batch, the world size, the device or what was drawn before.
    """
    low = _mix_bits(seeds & _LOW_32)
    high = _mix_bits(_mix_bits(low) ^ ((seeds >> 32) & _LOW_32))
    index = torch.arange(count, dtype=torch.int64, device=seeds.device)
    # Two keyed rounds: with one, two seeds would give the same keys in another order.
    bits = _mix_bits(_mix_bits(index ^ low[:, None]) ^ high[:, None])
    # 24 bits are what a float32 holds exactly.
    return (bits >> 8).to(torch.float32) * 2.0**-24


def _mix_bits(bits: Tensor) -> Tensor:
    """Scramble 32-bit numbers held in int64, one to one; the golden ratio keeps 0 from 0."""
    bits = (bits + 0x9E3779B9) & _LOW_32
    bits = ((bits ^ (bits >> 16)) * _FACTOR_1) & _LOW_32
    bits = ((bits ^ (bits >> 15)) * _FACTOR_2) & _LOW_32
    return bits ^ (bits >> 16)


class ExportGraph(nn.Module):
    """What ONNX and torch.export files are made of; `forward` takes `images` (B, 3, H, W) uint8.

    Class attributes:
        outputs: Names of what `forward` returns.
        takes_sizes: `forward` also takes `image_sizes` (B, 2) int64, (height, width) in the images.
    """

    outputs: ClassVar[tuple[str, ...]]
    takes_sizes: ClassVar[bool] = False


class BatchNorm(nn.BatchNorm2d):
    """`BatchNorm2d` that normalises a single value a channel by its running statistics.

    Where torch's is an error: a last batch of one image, whose map is a single cell.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        """(B, C, H, W) -> the same, normalised."""
        if self.training and input.numel() == input.shape[1]:
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class SyncBatchNorm(BatchNorm):
    """`BatchNorm` by the mean and variance of all ranks' samples together.

    On one process, and in evaluation, it is `BatchNorm`. Each layer costs a small all-reduce in
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
        mean, var = self._with_running(mean, var, count)
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

    def _with_running(self, mean: Tensor, var: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Update the running statistics, and take them in the place of those of a single value."""
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("SyncBatchNorm keeps running statistics with a momentum")
        # Decided on the device, which the host does not wait for.
        single = count <= 1
        before = self.running_mean.double().clone(), self.running_var.double().clone()
        with torch.no_grad():
            unbiased = var * (count / (count - 1).clamp(min=1))
            momentum = (~single).float() * self.momentum
            self.running_mean.lerp_(mean.float(), momentum)
            self.running_var.lerp_(unbiased.float(), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return torch.where(single, before[0], mean), torch.where(single, before[1], var)


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


class RandomBySample(nn.Module):
    """A layer whose random mask of (B, ...) is a hash of each sample's seed.

    A mask depends on nothing but that seed: not on the rest of the batch, the rank, the device, or
    what was drawn before. Set `seeds` (B,) before each forward pass in training.
    """

    def __init__(self, p: float, layer: int) -> None:
        """`p` is the share that is dropped; `layer` tells a sample's masks apart."""
        super().__init__()
        self.p = p
        self.layer = layer
        self.seeds: Tensor | None = None

    def _scale(self, count: int) -> Tensor:
        """(B, count) float32: 0 for the share `p`, else 1 / (1 - p)."""
        if self.seeds is None:
            raise ValueError("dropout in training needs the seeds of the samples")
        # Far from the seeds of other samples, which are random 62-bit numbers.
        keys = random_keys(self.seeds ^ self.layer, count)
        return (keys >= self.p) / (1 - self.p)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"p={self.p}, layer={self.layer}"


class SampleDropout(RandomBySample):
    """`nn.Dropout` by a hash of each sample's seed, see `RandomBySample`."""

    def forward(self, features: Tensor) -> Tensor:
        """The features (B, ...), some of them 0 and the others larger by 1 / (1 - p)."""
        if not self.training or not self.p:
            return features
        scale = self._scale(features[0].numel())
        return features * scale.view(features.shape).to(features.dtype)


class SampleStochasticDepth(RandomBySample):
    """torchvision's `StochasticDepth` of mode "row" by a hash of each sample's seed.

    It drops a residual branch (B, ...) of some samples as a whole (Huang et al. 2016).
    """

    def forward(self, branch: Tensor) -> Tensor:
        """The branch, 0 for some samples and larger by 1 / (1 - p) for the others."""
        if not self.training or not self.p:
            return branch
        scale = self._scale(1).view(-1, *[1] * (branch.ndim - 1))
        return branch * scale.to(branch.dtype)


class ImageNetPixels(nn.Module):
    """RGB (B, 3, H, W) from 0 to 255 -> float32, per channel `(value / 255 - mean) / std`."""

    def __init__(self) -> None:
        """Constants are buffers, so that they move with the model; no checkpoint holds them."""
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        # (v / 255 - m) / s as one multiply and one add.
        self.register_buffer("factor", (1 / (255 * std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (-mean / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA), persistent=False)
        self.factor: Tensor
        self.offset: Tensor
        self.luma: Tensor
        self.memory_format = torch.contiguous_format

    def forward(
        self, images: Tensor, image_sizes: Tensor | None = None, color: Tensor | None = None
    ) -> Tensor:
        """Normalise; with `image_sizes` (B, 2) rows (height, width), padding outside becomes 0.

        The images are uint8 or float32. Zero is the mean colour, and what convolutions see beyond
        the border anyway. `color` (B, 3) are factors of brightness, contrast and saturation, see
        `jitter_color`.
        """
        pixels = images.to(torch.float32, memory_format=self.memory_format)
        if color is not None:
            pixels = jitter_color(pixels, color, self.luma)
            pixels = pixels.contiguous(memory_format=self.memory_format)
        # In place, unless that place is the caller's.
        pixels = pixels * self.factor if pixels is images else pixels.mul_(self.factor)
        pixels = pixels.add_(self.offset)
        if image_sizes is None:
            return pixels
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        inside_rows = rows < image_sizes[:, :1]
        inside_columns = columns < image_sizes[:, 1:]
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return pixels.mul_(inside)


def jitter_color(pixels: Tensor, color: Tensor, luma: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of (B, 3, H, W) by factors (B, 3), in this order.

    `luma` (3,) are the colours' shares in gray, on the device: a constant made here would be a copy
    that CUDA waits for.

    As torchvision's ColorJitter blends, but in one pass: the three are one affine map of a pixel's
    colour, and nothing is clipped to the range of uint8. No matrix product is used: autocast would
    round its inputs to 16 bits, and TF32 to 10 bits of mantissa, which is whole gray levels.
    """
    factors = color.to(pixels.dtype).view(-1, 3, 1, 1, 1)
    brightness, contrast, saturation = factors.unbind(1)
    gray = (pixels * luma.view(3, 1, 1)).sum(dim=1, keepdim=True)
    mean_gray = gray.mean(dim=(2, 3), keepdim=True)
    scale = brightness * contrast
    # Each colour: saturation of it and the rest of the gray; then contrast's part of the mean.
    shared = (scale * (1 - saturation)) * gray + (brightness * (1 - contrast)) * mean_gray
    return torch.addcmul(shared, pixels, scale * saturation)


def set_channels_last(model: nn.Module, channels_last: bool) -> None:
    """Lay out a model's convolutions, and the pixels it makes, as NHWC or NCHW in memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    for module in model.modules():
        if isinstance(module, ImageNetPixels):
            module.memory_format = layout
