"""What is asked of `accelerate launch` is followed or said."""

import subprocess
from pathlib import Path

import pytest
from launch import ACCELERATE, CLASSIFIER, REPO, environment

from vocdist.config.file import read_yaml
from vocdist.config.training import RuntimeConfig, TrainConfig
from vocdist.distributed.launcher import Hardware, Launcher, choose_precision
from vocdist.errors import UserError

AMPERE, OLD_GPU = Hardware("cuda", has_bf16=True), Hardware("cuda", has_bf16=False)
PLAIN_CPU, AMX = Hardware("cpu", has_bf16=False), Hardware("cpu", has_bf16=True)


def launched(*command: str, **settings: object) -> Launcher:
    return Launcher(command, settings, {"ACCELERATE_MIXED_PRECISION": "no"})


def notes(launcher: Launcher, *, world: int = 1, **runtime: object) -> list[str]:
    config = RuntimeConfig(**{"mixed_precision": "fp32", **runtime})  # type: ignore[arg-type]
    return launcher.notes(config, TrainConfig(), world)


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
    assert (
        notes(launched(mixed_precision="no", distributed_type="MULTI_GPU", num_processes=4)) == []
    )
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
    (line,) = notes(launched(dynamo_backend="INDUCTOR"))
    assert line.endswith("not followed, set runtime.compile=true")
    assert notes(launched(dynamo_backend="INDUCTOR"), compile=True) == []
    (line,) = notes(launched("--cpu", "--num_processes=2"))
    assert "starts one process: use --config_file configs/accelerate/two_cpu.yaml" in line
    assert notes(launched("--cpu", "--num_processes=2"), world=2) == []
    (line,) = notes(Launcher([], {}, {"ACCELERATE_MIXED_PRECISION": "fp8"}))
    assert "mixed_precision=fp8: not followed" in line


@pytest.mark.parametrize(
    "launcher",
    [launched(distributed_type="FSDP"), launched("--use_deepspeed"), launched("--use_fsdp")],
)
def test_sharding_is_refused(launcher: Launcher) -> None:
    with pytest.raises(UserError, match="shards models that are larger than a device"):
        notes(launcher)


def test_the_real_launcher_is_heard(demo_shards: Path, tmp_path: Path) -> None:
    options = ["--mixed_precision", "bf16", "--gradient_accumulation_steps=2", "--cpu"]
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
    for words in ("set train.accumulate=2", "--cpu --num_processes 2 starts one process"):
        assert done.stdout.count(words) == 1
