"""The launch configs start what their names say: accelerate itself says nothing when it does not.

`accelerate launch` turns a config into a command with private code of its own, which has changed
before; these tests are what notices.
"""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands import launch

CONFIGS = Path(__file__).parents[1] / "configs/accelerate"

# What each process knows, written at one go: ranks print at the same time.
PROBE = """
import os
import sys

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=not torch.cuda.is_available())
total = accelerator.reduce(torch.ones((), device=accelerator.device), "sum")
sys.stdout.write(
    f"probe {accelerator.process_index} {accelerator.num_processes} {accelerator.device.type} "
    f"{int(total)} {os.environ.get('ACCELERATE_USE_CPU')}\\n"
)
accelerator.end_training()
"""


def resolved(name: str, *options: str) -> Namespace:
    """The arguments that `accelerate launch --config_file NAME.yaml` would start from."""
    config = str(CONFIGS / f"{name}.yaml")
    arguments = ["--config_file", config, *options, "train.py"]
    args, _, _ = launch._validate_launch_command(
        launch.launch_command_parser().parse_args(arguments)
    )
    return args


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one_cpu", {"multi_gpu": False, "num_processes": 1, "use_cpu": True}),
        ("two_cpu", {"multi_gpu": True, "num_processes": 2, "gpu_ids": "-1,-1"}),
        ("mps", {"multi_gpu": False, "num_processes": 1, "use_cpu": False}),
        ("one_gpu", {"multi_gpu": False, "num_processes": 1, "gpu_ids": "0"}),
        ("all_gpus", {"multi_gpu": True, "num_processes": "gpu", "gpu_ids": "all"}),
        ("two_nodes", {"multi_gpu": True, "num_processes": 16, "num_machines": 2}),
    ],
)
def test_a_config_resolves_to_the_launch_it_names(name: str, expected: dict[str, Any]) -> None:
    args = resolved(name)
    assert {key: getattr(args, key) for key in expected} == expected
    assert args.mixed_precision == "no"  # left to runtime.mixed_precision


def test_every_config_is_covered() -> None:
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names == {"one_cpu", "two_cpu", "mps", "one_gpu", "all_gpus", "two_nodes"}


def test_the_second_node_is_told_apart_on_the_command_line() -> None:
    args = resolved("two_nodes", "--machine_rank", "1", "--main_process_ip", "10.0.0.1")
    assert (args.machine_rank, args.main_process_ip) == (1, "10.0.0.1")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "world_size"), [("one_cpu", 1), ("two_cpu", 2)])
def test_cpu_processes_really_run_and_know_of_each_other(
    name: str, world_size: int, tmp_path: Path
) -> None:
    script = tmp_path / "probe.py"
    script.write_text(PROBE, encoding="utf-8")
    command = ["-m", "accelerate.commands.accelerate_cli", "launch"]
    result = subprocess.run(
        [sys.executable, *command, "--config_file", str(CONFIGS / f"{name}.yaml"), str(script)],
        capture_output=True,
        text=True,
        # Set, so that accelerate has no default to report.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    use_cpu = "True" if world_size == 1 else "None"
    assert sorted(result.stdout.splitlines()) == [
        f"probe {rank} {world_size} cpu {world_size} {use_cpu}" for rank in range(world_size)
    ]
    assert not result.stderr
