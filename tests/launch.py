"""Starts the real scripts through the real launcher, as a user does."""

import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]

# The smallest trainings worth the name.
CLASSIFIER = [
    "model.weights=none",
    "input.size=48",
    "train.epochs=2",
    "train.global_batch=6",
    "train.log_every=2",
    "data.num_workers=0",
]
RPN = [
    "model.scales=[[16, 32]]",
    "input.short_side=64",
    "input.long_side=96",
    "train.epochs=1",
    "train.global_batch=4",
    "train.log_every=2",
    "data.num_workers=0",
    "tracking.wandb=disabled",
]


def command(script: Path, *arguments: str, config: str = "one_cpu") -> list[str]:
    """The `accelerate launch` command line of a script."""
    launch_config = REPO / "configs" / "accelerate" / f"{config}.yaml"
    return [*ACCELERATE, "--config_file", str(launch_config), str(script), *arguments]


def environment() -> dict[str, str]:
    """This process's, without credentials, so that no test ever logs in anywhere."""
    # Without its bytecode, torch is compiled anew by every process: ten seconds each.
    hidden = ("WANDB_API_KEY", "RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONDONTWRITEBYTECODE")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    return env | {"OMP_NUM_THREADS": "1", "NETRC": os.devnull}


def launch(
    script: str, *arguments: str, config: str = "one_cpu"
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repo to its end; output is captured as text."""
    return subprocess.run(
        command(REPO / "scripts" / script, *arguments, config=config),
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )


def run_script(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the repo without the launcher."""
    return subprocess.run(
        [sys.executable, str(REPO / "scripts" / script), *arguments],
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
