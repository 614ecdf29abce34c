"""Random numbers that are a hash of what they are for: no generator, no state, any device."""

import torch
from torch import Tensor


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


_LOW_32 = 0xFFFFFFFF
# The multipliers of Wellons' lowbias32 (2018, "Prospecting for hash functions"), the second as a
# signed number: a product with 32 bits then fits int64, so nothing relies on overflow.
_FACTOR_1 = 0x7FEB352D
_FACTOR_2 = 0x846CA68B - 2**32


def _mix_bits(bits: Tensor) -> Tensor:
    """Scramble 32-bit numbers held in int64, one to one; the golden ratio keeps 0 from 0."""
    bits = (bits + 0x9E3779B9) & _LOW_32
    bits = ((bits ^ (bits >> 16)) * _FACTOR_1) & _LOW_32
    bits = ((bits ^ (bits >> 15)) * _FACTOR_2) & _LOW_32
    return bits ^ (bits >> 16)
