"""Finds, on a CPU, what would make an accelerator and its host wait for each other.

Two of torch's modes see it together. The dispatcher's sees each kernel, whoever calls it, autograd
and optimizers too. But on a CPU some ways to the host run no kernel at all: `tolist()` and
`numpy()` read memory in place, `cpu()` returns the tensor itself. Those are seen as Python's calls.

What a CPU cannot tell apart stays unseen: a `copy_` between tensors, or a `to` of another tensor or
of its device, where one of the two would be the host's.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Kernels whose result has a size, or takes a way, that the host must read first.
KERNELS = (
    "_local_scalar_dense",  # item(), bool(), int(), float(), range(), `if`, `in`, a slice's end
    "nonzero",  # argwhere() and where() of a condition alone too
    "masked_select",
    "_unique",
    "unique_",
    "equal",
    "is_nonzero",
    "allclose",
    "bincount",
    "histc",
    "_linalg_check_errors",  # inv(), solve(), cholesky()
    "multinomial",
    "nms",  # torchvision's
)
# Methods that bring values to the host, which on a CPU need no kernel for that.
METHODS: dict[Callable[..., Any], str] = {
    getattr(Tensor, name): name
    for name in (
        *("item", "tolist", "numpy", "cpu", "__array__", "__dlpack__", "__repr__", "__format__"),
        *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__"),
        *("storage", "untyped_storage", "__reduce_ex__", "__deepcopy__", "pin_memory"),
    )
}


class RefuseSyncs:
    """A context that raises on what makes an accelerator wait, also where there is none."""

    def __init__(self, *, numbers: bool = True) -> None:
        """Without `numbers` they may stand in a `where`: on a CPU some are the device's own."""
        self._modes = (_RefuseKernels(numbers), _RefuseMethods())

    def __enter__(self) -> Self:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*raised)


class _RefuseKernels(TorchDispatchMode):
    def __init__(self, numbers: bool) -> None:
        super().__init__()
        self._numbers = numbers

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.startswith("lift_fresh"):
            raise AssertionError(f"host sync: {func}: a constant is copied to the device")
        if any(name.startswith(refused) for refused in KERNELS):
            raise AssertionError(f"host sync: {func}")
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise AssertionError(f"host sync: {func} by a mask")
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise AssertionError(f"host sync: {func} without its output_size")
        if self._numbers and name == "where" and any(operand.dim() == 0 for operand in args[1:]):
            # CUDA's `where` copies a number to the device, and waits.
            raise AssertionError(f"host sync: {func} of a number")
        return func(*args, **(kwargs or {}))


class _RefuseMethods(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in METHODS:
            raise AssertionError(f"host sync: Tensor.{METHODS[func]}()")
        if func in (Tensor.to, Tensor.type):
            target = [*args[1:2], kwargs.get("device"), kwargs.get("dtype")]
            if any(_names_the_host(place) for place in target):
                raise AssertionError(f"host sync: Tensor.{func.__name__}() the host")
        if func is torch.tensor_split and any(isinstance(a, Tensor) for a in args[1:]):
            raise AssertionError("host sync: the places to split at are read from a tensor")
        if func is Tensor.backward and not any(kwargs.values()):
            # In a call that a mode sees it is off, and the backward pass would run without it.
            with self:
                return _backward(args[0])
        return func(*args, **kwargs)


def _names_the_host(place: object) -> bool:
    """Whether the argument of a `to` or `type` says the host by name: "cpu", a host's type.

    A device may be a tensor's own, which on a CPU is the host's.
    """
    return isinstance(place, str) and (place == "cpu" or place.startswith(("cpu:", "torch.")))


def _backward(loss: Tensor) -> None:
    """As `loss.backward()`, which modes would see again."""
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), True, True
    )


@contextmanager
def refusing_cuda_syncs() -> Iterator[None]:
    """Within this context whatever makes the host wait for a CUDA device raises."""
    with warnings.catch_warnings():
        # "A prototype feature", says a warning once the mode is set, which would stay set.
        warnings.simplefilter("ignore", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            torch.cuda.set_sync_debug_mode("default")
