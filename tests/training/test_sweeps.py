import os
import subprocess
from pathlib import Path

import pytest
import yaml
from launch import REPO
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from vocdist.cli import split_arguments
from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config
from vocdist.tasks.classifier import ClassifierTask
from vocdist.tasks.rpn import RpnTask

SWEEPS = {"classifier": (ClassifierConfig, ClassifierTask), "rpn": (RpnConfig, RpnTask)}


def first_and_last(parameter: dict) -> list:
    return (
        [parameter["values"][i] for i in (0, -1)]
        if "values" in parameter
        else [parameter["min"], parameter["max"]]
    )


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("end", [0, 1])
def test_an_agents_command_starts_a_training_of_its_own_folder(
    name: str, end: int, tmp_path: Path
) -> None:
    """W&B's own functions make the command, a shell runs it; `accelerate` repeats what it got."""
    sweep = yaml.safe_load((REPO / "configs" / "sweeps" / f"{name}.yaml").read_text())
    config_type, task = SWEEPS[name]
    assert sweep["metric"]["name"] == f"val/{task.best_metric}"
    chosen = {key: {"value": first_and_last(p)[end]} for key, p in sweep["parameters"].items()}
    macros = create_sweep_command_args({"args": chosen})
    macros |= {"env": ["/usr/bin/env"], "program": [sweep["program"]]}
    words: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        words += macros[word[2:-1]] if word.startswith("${") else [word]
    echo = tmp_path / "accelerate"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "abc12"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    launched, quiet, program, *arguments = done.stdout.splitlines()
    assert (launched, quiet) == ("launch", "--quiet")
    assert (REPO / program).is_file()
    path, overrides = split_arguments(arguments)
    config = load_config(config_type, None, overrides)
    assert path is None
    assert config.run.dir == Path("runs/sweep/abc12")
    for key, parameter in chosen.items():
        section, _, field = key.partition(".")
        assert getattr(getattr(config, section), field) == pytest.approx(parameter["value"])
