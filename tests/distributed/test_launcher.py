"""What is asked of `accelerate launch` is followed or said."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from launch import ACCELERATE, CLASSIFIER, REPO, environment

from vocdist.config.file import read_yaml
from vocdist.config.training import RuntimeConfig, TrainConfig
from vocdist.distributed.launcher import Hardware, Launcher, choose_precision, launch_arguments
from vocdist.errors import UserError

AMPERE, OLD_GPU = Hardware("cuda", has_bf16=True), Hardware("cuda", has_bf16=False)
PLAIN_CPU, AMX = Hardware("cpu", has_bf16=False), Hardware("cpu", has_bf16=True)


def launched(*command: str, **settings: object) -> Launcher:
    return Launcher(command, settings, {"ACCELERATE_MIXED_PRECISION": "no"})


def with_variables(**variables: str) -> Launcher:
    named = {f"ACCELERATE_{name}": value for name, value in variables.items()}
    return Launcher([], {}, {"ACCELERATE_MIXED_PRECISION": "no", **named})


def notes(launcher: Launcher, *, world: int = 1, gpus: int = 0, **runtime: object) -> list[str]:
    config = RuntimeConfig(**{"mixed_precision": "fp32", **runtime})  # type: ignore[arg-type]
    return launcher.notes(config, TrainConfig(), world, gpus)


@pytest.mark.parametrize(
    ("setting", "begun", "asked", "hardware", "chosen"),
    [
        ("auto", None, None, PLAIN_CPU, "fp32"),
        ("auto", None, None, AMX, "bf16"),
        ("auto", None, None, AMPERE, "bf16"),
        ("auto", None, None, OLD_GPU, "fp32"),
        ("auto", None, None, Hardware("mps", has_bf16=False), "fp32"),
        ("auto", None, "fp16", AMPERE, "fp16"),
        ("auto", None, "fp32", AMPERE, "fp32"),
        # A run keeps what it began with, on whatever machine it goes on.
        ("auto", "fp32", None, AMPERE, "fp32"),
        ("auto", "bf16", "fp32", PLAIN_CPU, "bf16"),
        # What the user has set is meant.
        ("fp32", "bf16", "bf16", AMPERE, "fp32"),
        ("fp16", None, "bf16", PLAIN_CPU, "fp16"),
    ],
)
def test_the_precision_is_the_settings_the_runs_the_launchers_or_the_hardwares(
    setting: str, begun: str | None, asked: str | None, hardware: Hardware, chosen: str
) -> None:
    assert choose_precision(setting, begun, asked, hardware) == chosen  # type: ignore[arg-type]


def test_the_launchers_defaults_are_no_wish() -> None:
    assert launched().precision is None
    assert launched(mixed_precision="no", num_processes=1, distributed_type="NO").precision is None
    several = launched(mixed_precision="no", distributed_type="MULTI_GPU", num_processes=4)
    assert notes(several, world=4) == []
    # `accelerate config` writes -1 where the number is to be given, `gpu` is torchrun's word.
    for number in (-1, "gpu", 1):
        assert notes(launched(num_processes=number)) == []
    assert notes(launched("--cpu", "--num_processes", "1")) == []
    assert launched("--mixed_precision", "no").precision == "fp32"
    assert launched("--mixed-precision=bf16").precision == "bf16"
    asked = Launcher([], {}, {"ACCELERATE_MIXED_PRECISION": "fp16"})
    assert asked.precision == "fp16"
    assert notes(asked) == [
        "runtime.mixed_precision=fp32 is kept, though the launcher asks for fp16"
    ]


def test_what_is_not_followed_is_said() -> None:
    (line,) = notes(launched("--gradient_accumulation_steps", "4"))
    assert line.endswith("not followed, set train.accumulate=4")
    (line,) = notes(with_variables(GRADIENT_ACCUMULATION_STEPS="2"))
    assert line.endswith("not followed, set train.accumulate=2")
    (line,) = notes(Launcher([], {}, {"ACCELERATE_MIXED_PRECISION": "fp8"}))
    assert "mixed_precision=fp8: not followed" in line


def test_another_way_to_compile_is_said() -> None:
    assert notes(with_variables(DYNAMO_BACKEND="NO", DYNAMO_MODE="max-autotune")) == []
    (line,) = notes(with_variables(DYNAMO_BACKEND="EAGER"))
    assert "dynamo_backend=eager: not followed, set runtime.compile=true" in line
    same = {"DYNAMO_MODE": "default", "DYNAMO_USE_FULLGRAPH": "False"}
    assert notes(with_variables(DYNAMO_BACKEND="INDUCTOR", **same), compile=True) == []
    other = with_variables(DYNAMO_BACKEND="EAGER", DYNAMO_USE_DYNAMIC="True")
    (line,) = notes(other, compile=True)
    assert line.endswith("asks for dynamo_backend=eager, dynamo_use_dynamic=true")


@pytest.mark.parametrize(
    ("launcher", "gpus", "remedy"),
    [
        (launched("--cpu", "--num_processes=3"), 0, "two_cpu.yaml --num_processes 3 starts 3 on"),
        (launched("--num-processes", "3"), 0, "two_cpu.yaml --num_processes 3 starts 3 on the CPU"),
        (launched(num_processes=3), 0, "two_cpu.yaml --num_processes 3 starts 3 on the CPU"),
        (launched("--num_processes", "3"), 4, "all_gpus.yaml starts one for each GPU"),
        # The last one counts, and the line goes before the file.
        (
            launched("--num_processes", "2", "--num_processes", "3", num_processes=1),
            0,
            "--num_processes 3 starts 3",
        ),
    ],
)
def test_one_process_instead_of_several_is_said(launcher: Launcher, gpus: int, remedy: str) -> None:
    (line,) = notes(launcher, gpus=gpus)
    assert "was asked for 3 processes and starts one" in line and remedy in line
    assert notes(launcher, gpus=gpus, world=3) == []


def test_gpus_are_no_remedy_for_a_training_on_the_cpu() -> None:
    asked = launched("--num_processes", "2")
    assert "two_cpu.yaml" in notes(asked, gpus=2, device="cpu")[0]
    on_cpu = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
    asked = Launcher(["--cpu", "--num_processes", "2"], {}, on_cpu)
    assert "two_cpu.yaml" in notes(asked, gpus=2)[0]


@pytest.mark.parametrize(
    "command",
    [
        ["/venv/bin/python", "/venv/bin/accelerate", "launch", "--cpu", "x.py"],
        ["accelerate-launch", "--cpu", "x.py"],
        ["python", "-m", "accelerate.commands.launch", "--cpu", "x.py"],
        ["python", "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "x.py"],
    ],
)
def test_every_spelling_of_the_launcher_is_known(command: list[str]) -> None:
    assert launch_arguments(command) == ["--cpu", "x.py"]


def test_other_commands_are_no_launcher() -> None:
    for command in ([], ["bash"], ["accelerate", "test"], ["torchrun", "--cpu", "accelerate.py"]):
        assert launch_arguments(command) is None


def configured(folder: Path, **settings: object) -> Path:
    """A file for `--config_file`."""
    file = folder / "accelerate.yaml"
    file.write_text(yaml.safe_dump({"main_process_port": 0, **settings}), encoding="utf-8")
    return file


def launch_accelerator(
    *options: str, script: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Launch a script for real, as a user does."""
    return subprocess.run(
        [*ACCELERATE, *options, str(script)],
        env={**environment(), "PYTHONPATH": str(REPO), **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )


BUILD = """
from torch import nn, optim
from vocdist.cli import run_command
from vocdist.config.training import RuntimeConfig, TrainConfig

def main(arguments):
    from vocdist.distributed.launcher import launcher
    from vocdist.distributed.processes import build_accelerator, launched_processes, prepare
    runtime = RuntimeConfig(mixed_precision="fp32")
    accelerator = build_accelerator(runtime)
    for note in launcher().notes(runtime, TrainConfig(), launched_processes(), 0):
        accelerator.print(note)
    model = nn.Linear(2, 2)
    model, _ = prepare(accelerator, model, optim.SGD(model.parameters(), lr=1.0))
    accelerator.print("prepared", type(model).__name__)

run_command(main, None)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "build.py"
    path.write_text(BUILD, encoding="utf-8")
    return path


@pytest.mark.slow
def test_sharding_by_a_section_of_the_file_is_refused(tmp_path: Path, script: Path) -> None:
    section = {"fsdp_config": {"fsdp_version": 1}}
    file = configured(tmp_path, distributed_type="FSDP", num_processes=1, **section)
    done = launch_accelerator("--config_file", str(file), script=script)
    assert "prepared" not in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert line.startswith("error: the launcher asks for FSDP, which shards models")
    # torchrun's table of what failed; its own exit code is 1.
    assert "exitcode  : 2" in done.stderr


def test_sharding_is_refused_with_exit_code_2_by_its_variable_alone(script: Path) -> None:
    # The launcher starts nothing for it where DeepSpeed is not installed.
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**environment(), "PYTHONPATH": str(REPO), "ACCELERATE_USE_DEEPSPEED": "true"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the launcher asks for DEEPSPEED")


def test_more_ways_to_shard_are_refused() -> None:
    for name in ("FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        with pytest.raises(UserError, match=f"asks for {name}, which shards models"):
            with_variables(**{f"USE_{name}": "true"}).refuse_sharding()
        with_variables(**{f"USE_{name}": "false"}).refuse_sharding()
    launched(distributed_type="FSDP", fsdp_config={"fsdp_version": 1}).refuse_sharding()


SECTIONS = {"fsdp_config": {"fsdp_version": 1}, "deepspeed_config": {"zero_stage": 2}}


@pytest.mark.slow
def test_the_default_file_does_not_count_with_cpu(tmp_path: Path, script: Path) -> None:
    home = tmp_path / "accelerate"
    home.mkdir()
    default = configured(home, distributed_type="FSDP", num_processes=4, **SECTIONS)
    default.rename(home / "default_config.yaml")
    done = launch_accelerator("--cpu", script=script, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "prepared Linear\n"


@pytest.mark.slow
def test_of_a_named_file_what_is_in_force_is_said_and_the_rest_passed_over(
    tmp_path: Path, script: Path
) -> None:
    dynamo = {"dynamo_config": {"dynamo_backend": "EAGER"}}
    file = configured(tmp_path, distributed_type="FSDP", num_processes=2, **SECTIONS, **dynamo)
    done = launch_accelerator("--cpu", "--config_file", str(file), script=script)
    assert done.returncode == 0, done.stderr
    compilation, processes, prepared = done.stdout.splitlines()
    assert "dynamo_backend=eager: not followed" in compilation
    assert "was asked for 2 processes and starts one" in processes
    assert prepared == "prepared Linear", "accelerate would have made it an OptimizedModule"


def test_the_real_launcher_is_heard(demo_shards: Path, tmp_path: Path) -> None:
    options = ["--mixed_precision", "bf16", "--gradient_accumulation_steps=2", "--cpu"]
    options += ["--dynamo_backend", "eager"]
    run = tmp_path / "run"
    settings = [s for s in CLASSIFIER if "mixed_precision" not in s]
    done = subprocess.run(
        [*ACCELERATE, *options, "--num_processes", "2", str(REPO / "scripts/train_classifier.py")]
        + [f"data.shards={demo_shards}", f"run.dir={run}", *settings]
        + ["train.epochs=1", "data.limit_train=6", "tracking.wandb=disabled"],
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read_yaml(run / "config.yaml")["runtime"]["mixed_precision"] == "bf16"
    assert read_yaml(run / "config.yaml")["runtime"]["compile"] is False
    for words in (
        "set train.accumulate=2",
        "dynamo_backend=eager: not followed",
        "asked for 2 processes and starts one",
    ):
        assert done.stdout.count(words) == 1
