"""Devices and processes, through accelerate: set-up, layout, gathering, all-reduces."""

import ctypes
import os
import socket
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vocdist.config.training import RuntimeConfig
from vocdist.data.workers import usable_cores
from vocdist.distributed.launcher import choose_precision, hardware_of, launcher
from vocdist.errors import ProcessLost, SharedError, UserError
from vocdist.models.layers import SyncBatchNorm, set_channels_last


def choose_interface() -> None:
    """Let gloo use the network that leads to the first host, unless the user has named one.

    By itself gloo takes the address that this host's own name stands for, and on many machines
    `/etc/hosts` says 127.0.0.1, where no other host can reach it. (NCCL looks for itself.)
    """
    hosts_differ = os.environ.get("WORLD_SIZE") != os.environ.get("LOCAL_WORLD_SIZE")
    first = os.environ.get("MASTER_ADDR")
    if hosts_differ and first and "GLOO_SOCKET_IFNAME" not in os.environ:
        name = interface_towards(first)
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def interface_towards(host: str) -> str | None:
    """Name of the interface that a packet to `host` would leave by; None where there is no way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # of a datagram socket: nothing is sent
            own = probe.getsockname()[0]
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        # IPv6 addresses may carry their zone: fe80::1%eth0.
        if any(each.address.partition("%")[0] == own.partition("%")[0] for each in addresses):
            return name
    return None


# glibc's names for what `mallopt` sets (malloc.h).
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def reuse_memory() -> bool:
    """Have the allocator keep freed memory; whether there is one that can be told so (glibc).

    A training step frees hundreds of megabytes of activations. By default each large block goes
    back to the system at once, and the next step has it mapped and zeroed again, page by page.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # No block in a mapping of its own, and the heap's end is not given back below 2 GB.
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


def be_deterministic() -> None:
    """Have torch use only algorithms that give the same bits each time; before any work on CUDA."""
    # cuBLAS reads it when its first handle is made: one workspace a stream, none shared.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # What is fastest today need not be tomorrow.
    torch.backends.cudnn.benchmark = False


Item = TypeVar("Item")

_ACCELERATE_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def with_precision(runtime: RuntimeConfig, begun: RuntimeConfig | None = None) -> RuntimeConfig:
    """The same with `auto` decided, see `choose_precision`; `begun`: of the run that goes on.

    Raises:
        UserError: The device or the precision is not to be had here, or the launcher would shard
            the model.
    """
    asked = launcher()
    asked.refuse_sharding()
    on_cpu = _check_device(runtime)
    device = "cpu" if on_cpu else "cuda" if torch.cuda.is_available() else "mps"
    chosen = choose_precision(
        runtime.mixed_precision,
        begun.mixed_precision if begun else None,
        asked.precision,
        hardware_of(device),
    )
    decided = replace(runtime, mixed_precision=chosen)
    _check_device(decided)
    return decided


def runtime_of_use(
    runtime: RuntimeConfig, overrides: Sequence[str]
) -> tuple[RuntimeConfig, list[str]]:
    """The settings that a run was trained with, for measuring it on another device, with notes.

    fp16 becomes fp32 on a CPU, unless `overrides` ask for it: the weights are fp32 in any case.

    Raises:
        UserError: The device is not to be had here.
    """
    asked = any(override.startswith("runtime.mixed_precision=") for override in overrides)
    if asked or runtime.mixed_precision != "fp16" or not _uses_cpu(runtime):
        return runtime, []
    note = "trained in fp16, which needs a GPU: computed in fp32 here, on the CPU"
    return replace(runtime, mixed_precision="fp32"), [note]


def build_accelerator(runtime: RuntimeConfig) -> Accelerator:
    """Join the process group that the launcher prepared, on the configured device.

    Raises:
        UserError: The device or the precision is not to be had here, or the launcher would shard
            the model.
        ProcessLost: The processes cannot reach each other.
    """
    runtime = with_precision(runtime)
    use_cpu = _check_device(runtime)
    if runtime.deterministic:
        be_deterministic()
    choose_interface()
    try:
        accelerator = Accelerator(
            cpu=use_cpu,
            mixed_precision=_ACCELERATE_PRECISION[runtime.mixed_precision],
            # Running statistics are averaged when they are needed (`average_buffers`), not copied
            # from rank 0 at every step.
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(seconds=runtime.collective_timeout_s)),
                # A CUDA graph must cast the weights itself, at each replay.
                AutocastKwargs(cache_enabled=use_cpu),
            ],
            # The loop accumulates by weights; a launcher's setting must not divide them again.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            # `runtime.compile` decides, see `lay_out`: left out, a variable of the launcher would
            # have the model compiled, and the run's config would not say so.
            dynamo_backend="no",
        )
    except ValueError as error:
        raise UserError(f"accelerate refuses runtime.* or its launch config: {error}") from None
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        reason = str(error).splitlines()[0]
        raise ProcessLost(
            f"the processes of this run cannot reach each other [{reason}]: see that all hosts "
            f"were started, that the first one's address and port are open to the others, and, "
            f"where they share several networks, name one: GLOO_SOCKET_IFNAME=eth0"
        ) from error
    if runtime.device not in ("auto", accelerator.device.type):
        raise UserError(
            f"runtime.device={runtime.device}, but the launch config chose "
            f"{accelerator.device.type}: take another one from configs/accelerate/"
        )
    _check_world_size(accelerator)
    if accelerator.device.type == "cpu":
        # Launchers set one thread a process, which leaves most of a laptop idle.
        torch.set_num_threads(max(1, usable_cores() // local_ranks()))
        reuse_memory()
    return accelerator


def lay_out(model: nn.Module, runtime: RuntimeConfig, device: torch.device) -> None:
    """Order a model's memory, and compile it, as the config asks for; before `prepare`."""
    # MPS has computed wrong convolutions in NHWC: not there until it is shown right.
    set_channels_last(model, runtime.channels_last and device.type != "mps")
    if runtime.compile:
        model.compile()


def prepare(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer on the device, wrapped for precision and for several processes."""
    with warnings.catch_warnings():
        # accelerate has no other name yet for the option that `build_accelerator` sets.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        prepared = accelerator.prepare(model, optimizer)
    return prepared[0], prepared[1]


def learning_batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Those whose running statistics move in training; a frozen backbone's stay as they are."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.weight.requires_grad
    ]


def average_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every rank the mean of all ranks' BatchNorm statistics (a collective).

    Each rank has seen other samples, so none of their running statistics is the right one.
    """
    if accelerator.num_processes == 1:
        return
    for module in learning_batch_norms(model):
        # Synchronized ones are the same on all ranks, and a mean of equals may round.
        if not isinstance(module, SyncBatchNorm):
            for name in ("running_mean", "running_var"):
                statistic = module.get_buffer(name)
                statistic.copy_(accelerator.reduce(statistic, reduction="mean"))


def gather_lists(accelerator: Accelerator, items: list[Item]) -> list[Item]:
    """Every rank's items in one list, on every rank (a collective)."""
    if accelerator.num_processes == 1:
        return items
    gathered: list[Item] = gather_object(items)
    return gathered


def raise_together(accelerator: Accelerator, failure: str) -> None:
    """Go on when no rank has a failure to tell (a collective).

    Raises:
        SharedError: With the first failure, on every rank.
    """
    failures = [told for told in gather_lists(accelerator, [failure]) if told]
    if failures:
        raise SharedError(failures[0])


def _check_device(runtime: RuntimeConfig) -> bool:
    """Whether to run on the CPU, which is refused with fp16; see `_uses_cpu`."""
    use_cpu = _uses_cpu(runtime)
    if use_cpu and runtime.mixed_precision == "fp16":
        raise UserError("runtime.mixed_precision=fp16 needs a GPU: use bf16 or fp32 on the CPU")
    return use_cpu


def _uses_cpu(runtime: RuntimeConfig) -> bool:
    """Whether this device setting, the launcher and the machine mean the CPU.

    Raises:
        UserError: The device is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if runtime.device == "cuda" and not cuda:
        raise UserError("runtime.device=cuda but torch finds no CUDA device: use auto or cpu")
    if runtime.device == "mps" and not mps:
        raise UserError("runtime.device=mps but torch finds no MPS device: use auto or cpu")
    # `use_cpu: true` in a config of one process reaches the script as this variable.
    asked_for_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
    # MPS is one device: several processes share the CPU instead.
    no_gpu = not cuda and (not mps or launched_processes() > 1)
    return runtime.device == "cpu" or (runtime.device == "auto" and (asked_for_cpu or no_gpu))


def local_ranks() -> int:
    """Processes of this run on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def launched_processes() -> int:
    """Processes of this run, as the launcher says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check_world_size(accelerator: Accelerator) -> None:
    """Refuse what accelerate lets pass: processes that do not know of each other."""
    if accelerator.num_processes != launched_processes():
        raise UserError(
            f"{launched_processes()} processes were launched but each would train alone: pass "
            f"runtime.device=cpu, or one of the configs in configs/accelerate/"
        )


def is_lost_process(error: BaseException) -> bool:
    """Whether an error is a collective's: another rank has ended, or cannot be reached."""
    # gloo raises a plain RuntimeError that names its source file.
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error).lower()
    )
