"""Finds, on a CPU, what would make an accelerator and its host wait for each other."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RefuseSyncs(TorchDispatchMode):
    """Raises on what makes an accelerator wait for its host, also where there is none."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "equal", "is_nonzero")

    def __init__(self, *, numbers: bool = True):
        """Without `numbers` they may stand in a `where`: on a CPU some are the device's own."""
        super().__init__()
        self._numbers = numbers

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith("lift_fresh"):
            raise AssertionError(f"host sync: {func}: a constant is copied to the device")
        if any(name.startswith(refused) for refused in self.REFUSED):
            raise AssertionError(f"host sync: {func}")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise AssertionError(f"host sync: {func} by a mask")
        if self._numbers and name == "where" and any(operand.dim() == 0 for operand in args[1:]):
            # CUDA's `where` copies a number to the device, and waits.
            raise AssertionError(f"host sync: {func} of a number")
        return func(*args, **(kwargs or {}))
