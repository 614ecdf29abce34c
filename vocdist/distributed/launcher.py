"""What the user asked `accelerate launch` for, and what comes of it.

The launcher hands its wishes on in variables, but its defaults too, and some not at all. What is in
force of compilation and sharding stands in the variables, whatever sections its file holds. For the
rest its command line and config file are read, where the parent process is a launcher and can be
looked at.
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
# What would shard a model over devices: the launcher sets ACCELERATE_USE_* of it to `true` where it
# is in force, and leaves it out where a file has only the section, or `--cpu` goes before.
_SHARDING = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")
# How `runtime.compile=true` compiles, in the launcher's words: with torch's defaults.
_COMPILATION = {
    "backend": "inductor",
    "mode": "default",
    "use_fullgraph": "false",
    "use_dynamic": "false",
    "use_regional_compilation": "false",
}


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
        found = None
        for i, word in enumerate(self._command):
            option, equals, value = word.partition("=")
            if option.replace("-", "_") == f"__{name}":
                # As argparse has it, the last one counts.
                found = value if equals else next(iter(self._command[i + 1 : i + 2]), None)
        if found is not None:
            return found
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

    def refuse_sharding(self) -> None:
        """Go on where the model stays whole.

        Raises:
            UserError: It would shard the model, which this training does not do.
        """
        for name in _SHARDING:
            if self._environment.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
                raise UserError(
                    f"the launcher asks for {name}, which shards models that are larger than a "
                    f"device: these fit; take a file of configs/accelerate/, as --config_file "
                    f"configs/accelerate/all_gpus.yaml, or one_cpu.yaml without a GPU"
                )

    def notes(
        self, runtime: RuntimeConfig, train: TrainConfig, world_size: int, gpus: int
    ) -> list[str]:
        """A line for each of its wishes that is not followed; `gpus`: CUDA devices here."""
        found = []
        steps = (
            self.asked("gradient_accumulation_steps")
            or self._environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
            or "1"
        )
        if steps not in ("1", str(train.accumulate)):
            found.append(
                f"the launcher asks for gradient_accumulation_steps={steps}: not followed, set "
                f"train.accumulate={steps}"
            )
        named = self._environment.get("ACCELERATE_MIXED_PRECISION", "no")
        if named not in _PRECISIONS:
            found.append(f"the launcher asks for mixed_precision={named}: not followed")
        elif self.precision not in (None, runtime.mixed_precision):
            found.append(
                f"runtime.mixed_precision={runtime.mixed_precision} is kept, though the launcher "
                f"asks for {self.precision}"
            )
        on_cpu = runtime.device == "cpu" or (
            runtime.device == "auto"
            and self._environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes")
        )
        return [
            *found,
            *self._note_on_compilation(runtime),
            *self._note_on_processes(world_size, 0 if on_cpu else gpus),
        ]

    def _note_on_compilation(self, runtime: RuntimeConfig) -> list[str]:
        """A line where the model is compiled in another way than it asks for, or not at all."""
        backend = self._environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
        if backend == "no":
            return []
        if not runtime.compile:
            return [
                f"the launcher asks for dynamo_backend={backend}: not followed, set "
                f"runtime.compile=true, which compiles with inductor"
            ]
        others = []
        for name, usual in _COMPILATION.items():
            asked = self._environment.get(f"ACCELERATE_DYNAMO_{name.upper()}", usual).lower()
            if asked != usual:
                others.append(f"dynamo_{name}={asked}")
        if not others:
            return []
        return [
            f"runtime.compile=true compiles with inductor and torch's defaults, though the "
            f"launcher asks for {', '.join(others)}"
        ]

    def _note_on_processes(self, world_size: int, gpus: int) -> list[str]:
        """A line where it has started one process instead of several.

        It does so without a word wherever it is not asked for `multi_gpu` (in its file:
        distributed_type), `--cpu` and MULTI_CPU included.
        """
        processes = self.asked("num_processes") or "1"
        if world_size > 1 or not processes.isdecimal() or int(processes) < 2:
            return []
        remedy = (
            "accelerate launch --config_file configs/accelerate/all_gpus.yaml starts one for each "
            "GPU"
            if gpus
            else f"accelerate launch --config_file configs/accelerate/two_cpu.yaml --num_processes "
            f"{processes} starts {processes} on the CPU"
        )
        return [f"the launcher was asked for {processes} processes and starts one: {remedy}"]


def launcher() -> Launcher:
    """The launcher of this process, as far as it can be seen."""
    command = _parents_command() if "ACCELERATE_MIXED_PRECISION" in os.environ else []
    own = launch_arguments(command)
    if own is None:
        return Launcher([], {}, os.environ)
    # Up to the script: what follows is not the launcher's.
    stop = next((i for i, word in enumerate(own) if word.endswith(".py")), len(own))
    options = own[:stop]
    file = Launcher(options, {}, {}).asked("config_file")
    # As the launcher does it: a file that is named is read, the default one not with `--cpu`.
    settings = {} if file is None and "--cpu" in options else _read_settings(file)
    return Launcher(options, settings, os.environ)


def launch_arguments(command: Sequence[str]) -> Sequence[str] | None:
    """What follows `accelerate launch`, in any of its spellings; None where it is another command.

    They are `accelerate launch`, `accelerate-launch` and `python -m` with either's module.
    """
    for i, word in enumerate(command):
        name = Path(word).name.removesuffix(".exe")
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return command[i + 1 :]
        if name in ("accelerate", "accelerate.commands.accelerate_cli", "accelerate_cli.py"):
            return command[i + 2 :] if [*command[i + 1 : i + 2]] == ["launch"] else None
    return None


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
