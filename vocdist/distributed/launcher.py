"""What the user asked `accelerate launch` for, and what comes of it.

The launcher hands its wishes on in variables, but its defaults too, and some not at all. So its
command line and config file are read, where the parent process is a launcher and can be looked at.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
import torch
import yaml

from vocdist.config.training import RuntimeConfig, TrainConfig
from vocdist.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]
Setting = Literal["auto", Precision]
_PRECISIONS: dict[str, Precision] = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}
# What would shard a model over devices.
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM")


class Hardware(NamedTuple):
    """What a precision is chosen by: `cuda`, `mps` or `cpu`, and whether it computes in bf16."""

    device: str
    has_bf16: bool


def hardware_of(device: str) -> Hardware:
    """What is here of a kind of device.

    bf16 counts where it is a gain: from Ampere on, and on CPUs with AMX or AVX512-BF16.
    """
    if device == "cuda":
        return Hardware(device, torch.cuda.get_device_capability()[0] >= 8)
    if device == "mps":
        return Hardware(device, False)
    found = torch.cpu.get_capabilities()
    return Hardware(device, bool(found.get("amx_bf16") or found.get("avx512_bf16")))


class Launcher:
    """The `accelerate launch` that started this process.

    Args:
        command: Its command line; empty where there is none or it cannot be read.
        settings: Its config file.
        environment: Of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        settings: Mapping[str, object],
        environment: Mapping[str, str],
    ) -> None:
        """Keep the parts."""
        self._command = command
        self._settings = settings
        self._environment = environment

    def asked(self, name: str) -> str | None:
        """The value of one of its options, from the command line, else from the file."""
        for i, word in enumerate(self._command):
            option, equals, value = word.partition("=")
            if option.replace("-", "_") == f"__{name}":
                return value if equals else next(iter(self._command[i + 1 : i + 2]), None)
        stated = self._settings.get(name)
        return None if stated is None else str(stated)

    @property
    def precision(self) -> Precision | None:
        """What it asks for; None where it says nothing.

        `no` is its default, in the variable and in the files that `accelerate config` writes, so
        that only the option means it.
        """
        if any(
            word.startswith(("--mixed_precision", "--mixed-precision")) for word in self._command
        ):
            return _PRECISIONS.get(self.asked("mixed_precision") or "")
        named = self._environment.get("ACCELERATE_MIXED_PRECISION", "no")
        return _PRECISIONS.get(named) if named != "no" else None

    def notes(self, runtime: RuntimeConfig, train: TrainConfig, world_size: int) -> list[str]:
        """A line for each of its wishes that is not followed.

        Raises:
            UserError: It would shard the model, which this training does not do.
        """
        kind = (self.asked("distributed_type") or "").upper()
        flags = [n for n in _SHARDING if f"--use_{n.lower()}" in self._command]
        for name in (*flags, kind):
            if name in _SHARDING:
                raise UserError(
                    f"the launcher asks for {name}, which shards models that are larger than a "
                    f"device: these fit; take a file of configs/accelerate/, as --config_file "
                    f"configs/accelerate/all_gpus.yaml"
                )
        found = []
        steps = self.asked("gradient_accumulation_steps") or "1"
        if steps not in ("1", str(train.accumulate)):
            found.append(
                f"the launcher asks for gradient_accumulation_steps={steps}: not followed, set "
                f"train.accumulate={steps}"
            )
        backend = (self.asked("dynamo_backend") or "no").lower()
        if backend != "no" and not runtime.compile:
            found.append(
                f"the launcher asks for dynamo_backend={backend}: not followed, set "
                f"runtime.compile=true"
            )
        named = self._environment.get("ACCELERATE_MIXED_PRECISION", "no")
        if named not in _PRECISIONS:
            found.append(f"the launcher asks for mixed_precision={named}: not followed")
        elif self.precision not in (None, runtime.mixed_precision):
            found.append(
                f"runtime.mixed_precision={runtime.mixed_precision} is kept, though the launcher "
                f"asks for {self.precision}"
            )
        processes = self.asked("num_processes") or "1"
        on_cpu = "--cpu" in self._command
        if on_cpu and processes.isdigit() and int(processes) > 1 and world_size == 1:
            found.append(
                f"accelerate launch --cpu --num_processes {processes} starts one process: use "
                f"--config_file configs/accelerate/two_cpu.yaml, with that number in it"
            )
        return found


def launcher() -> Launcher:
    """The launcher of this process, as far as it can be seen."""
    command = _parents_command() if "ACCELERATE_MIXED_PRECISION" in os.environ else []
    words = [word for word in command if "accelerate" in Path(word).name or word == "launch"]
    if len(words) < 2 or "launch" not in command:
        return Launcher([], {}, os.environ)
    # Up to the script: what follows is not the launcher's.
    own = command[command.index("launch") + 1 :]
    stop = next((i for i, word in enumerate(own) if word.endswith(".py")), len(own))
    options = own[:stop]
    file = Launcher(options, {}, {}).asked("config_file")
    return Launcher(options, _read_settings(file), os.environ)


def choose_precision(
    setting: Setting, begun: Setting | None, asked: Precision | None, hardware: Hardware
) -> Precision:
    """What `runtime.mixed_precision` is to be.

    Args:
        setting: The config's; other than `auto` it is meant.
        begun: That of the run that goes on, which keeps what it began with.
        asked: The launcher's.
        hardware: Decides where nobody has said anything.
    """
    if setting != "auto":
        return setting
    if begun is not None and begun != "auto":
        return begun
    return asked or ("bf16" if hardware.has_bf16 else "fp32")


def _read_settings(file: str | None) -> Mapping[str, object]:
    if file is None:
        from accelerate.commands.config.config_args import default_config_file

        file = default_config_file
    with suppress(OSError, ValueError, yaml.YAMLError):
        found = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}


def _parents_command() -> list[str]:
    with suppress(psutil.Error):
        return psutil.Process(os.getppid()).cmdline()
    return []
