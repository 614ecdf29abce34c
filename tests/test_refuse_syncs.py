"""The check that finds waits for the device finds each way there is to one, and nothing else."""

import copy
import operator
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from refuse_syncs import RefuseSyncs, refusing_cuda_syncs
from torch import Tensor, nn

SYNCS: dict[str, Callable[[Tensor], Any]] = {
    # Numbers.
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.max()),
    "int": lambda x: int(x.max()),
    "complex": lambda x: complex(x.max()),
    "index": lambda x: operator.index(x.long()[0]),
    "range": lambda x: range(x.long()[0]),
    "slice": lambda x: x[: x.long()[0]],
    "place": lambda x: x[x.long()[0]],
    "arange": lambda x: torch.arange(x.sum()),
    "full": lambda x: torch.full((2,), x.sum()),
    # Decisions.
    "bool": lambda x: bool(x.sum()),
    "if": lambda x: 1 if x.any() else 0,
    "not": lambda x: not x.sum(),
    "max": lambda x: max(x),
    "in": lambda x: 1.0 in x,
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "is_nonzero": lambda x: torch.is_nonzero(x[0]),
    # All values.
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "detached numpy": lambda x: x.detach().numpy(force=True),
    "asarray": lambda x: np.asarray(x),
    "np.add": lambda x: np.add(x, 1),
    "dlpack": lambda x: np.from_dlpack(x),
    "repr": lambda x: repr(x),
    "format": lambda x: f"{x.sum():.3f}",
    "format all": lambda x: f"{x}",
    "pickle": lambda x: pickle.dumps(x),
    "deepcopy": lambda x: copy.deepcopy(x),
    "storage": lambda x: x.untyped_storage(),
    # Copies to the host.
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "to device=": lambda x: x.to(device="cpu"),
    "to cpu as": lambda x: x.to("cpu", torch.float64),
    "to cpu later": lambda x: x.to("cpu", non_blocking=True),
    "type": lambda x: x.type("torch.FloatTensor"),
    # Constants from the host.
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "Tensor": lambda x: torch.Tensor([1, 2]),
    "as_tensor": lambda x: torch.as_tensor([1.0, 2.0]),
    "from_numpy": lambda x: torch.from_numpy(np.ones(3)),
    "new_tensor": lambda x: x * x.new_tensor(2.0),
    "list of places": lambda x: x[[0, 2]],
    "array of places": lambda x: x[np.array([0, 2])],
    "number": lambda x: torch.where(x > 0, x, 0.0),
    # Results whose size depends on values.
    "mask": lambda x: x[x > 0],
    "mask of bytes": lambda x: x[(x > 0).to(torch.uint8)],
    "mask with others": lambda x: x.repeat(2, 1)[:, x > 0],
    "set by mask": lambda x: operator.setitem(x, x > 0, x),
    "nonzero": lambda x: x.nonzero(),
    "nonzero tuple": lambda x: x.nonzero(as_tuple=True),
    "argwhere": lambda x: torch.argwhere(x),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "unique along": lambda x: x.repeat(2, 1).unique(dim=0),
    "unique in a row": lambda x: torch.unique_consecutive(x),
    "bincount": lambda x: torch.bincount(x.long()),
    "histc": lambda x: torch.histc(x),
    "one_hot": lambda x: F.one_hot(x.long()),
    "repeat": lambda x: x.repeat_interleave(x.long()),
    "tensor_split": lambda x: torch.tensor_split(x, x.long()),
    "nms": lambda x: torchvision.ops.nms(x.expand(1, 3).repeat(2, 2)[:, :4], x[:2], 0.5),
    # Checks.
    "inv": lambda x: torch.linalg.inv(torch.eye(3)),
    "multinomial": lambda x: torch.multinomial(x, 2),
    "clip": lambda x: nn.utils.clip_grad_norm_(with_gradient(x), 1.0, error_if_nonfinite=True),
}


def with_gradient(x: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(x)
    parameter.grad = x.clone()
    return parameter


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("sync", SYNCS)
def test_each_way_to_the_host_is_found(sync: str) -> None:
    with pytest.raises(AssertionError, match="host sync"), RefuseSyncs():
        SYNCS[sync](torch.ones(3))


class ReadsInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradients[0].tolist()
        return gradients[0]


def test_in_the_backward_pass_too() -> None:
    x = torch.ones(3, requires_grad=True)
    for wait in (
        lambda gradient: None if gradient.any() else None,
        lambda gradient: gradient.cpu(),
    ):
        y = x * 1
        y.register_hook(wait)
        with pytest.raises(AssertionError, match="host sync"), RefuseSyncs():
            y.sum().backward()
    with pytest.raises(AssertionError, match="host sync"), RefuseSyncs():
        ReadsInBackward.apply(x).sum().backward()


def test_afterwards_all_is_allowed_again() -> None:
    x = torch.ones(3)
    with pytest.raises(AssertionError), RefuseSyncs():
        x.tolist()
    with RefuseSyncs():
        pass
    assert x.tolist() == [1, 1, 1] and bool(x.any()) and x.cpu().numpy().sum() == 3


ALLOWED: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda x: (x * 2 + 1).mean() / x.sum(),
    "numbers by the host": lambda x: x.new_zeros(3).fill_(2.0) + x.new_full((1,), 3),
    "shapes": lambda x: [x.shape, len(x), x.device, x.dtype, x.numel(), x.is_contiguous()],
    "rows": lambda x: list(x),
    "places": lambda x: (x[0], x[1:], x[None], x[x.long() * 0]),
    "types": lambda x: x.to(torch.float64).float().to(torch.bfloat16).type(torch.float32),
    "as another": lambda x: x.to(x).type_as(x).to(x.device),
    "set all by mask": lambda x: operator.setitem(x, x > 0, 0.0),
    "fill": lambda x: x.masked_fill(x > 0, 0.0),
    "choose": lambda x: torch.where(x > 0, x, x.new_zeros(3)),
    "known size": lambda x: x.repeat_interleave(x.long(), output_size=3),
    "best": lambda x: x.topk(2).values.sort(),
}


@pytest.mark.parametrize("work", ALLOWED)
def test_what_waits_for_nothing_passes(work: str) -> None:
    with RefuseSyncs():
        ALLOWED[work](torch.ones(3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("work", ALLOWED)
def test_cuda_itself_says_that_it_waits_for_nothing(work: str) -> None:
    x = torch.ones(3, device="cuda")
    ALLOWED[work](x)
    with refusing_cuda_syncs():
        ALLOWED[work](x)


def test_the_mode_of_cuda_is_set_back_though_setting_it_warns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modes = []

    def set_mode(mode: str) -> None:
        # As torch does it: the mode first, then the warning, which is an error in these tests.
        modes.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    with pytest.raises(RuntimeError, match="the test's own"), refusing_cuda_syncs():
        assert modes == ["error"]
        raise RuntimeError("the test's own")
    assert modes == ["error", "default"]
