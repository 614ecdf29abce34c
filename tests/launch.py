"""Starts the real scripts through the real launcher, as a user does."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

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
    "runtime.mixed_precision=fp32",
]
RPN = [
    "model.strides=[32]",
    "model.scales=[[16, 32]]",
    "features.cache=false",
    "input.short_side=64",
    "input.long_side=96",
    "train.epochs=1",
    "train.global_batch=4",
    "train.log_every=2",
    "data.num_workers=0",
    "tracking.wandb=disabled",
    "runtime.mixed_precision=fp32",
]


def command(
    script: Path, *arguments: str, config: str = "one_cpu", options: Sequence[str] = ()
) -> list[str]:
    """The `accelerate launch` command line of a script, with more options of the launcher."""
    launch_config = REPO / "configs" / "accelerate" / f"{config}.yaml"
    return [*ACCELERATE, "--config_file", str(launch_config), *options, str(script), *arguments]


def environment() -> dict[str, str]:
    """This process's, without credentials, so that no test ever logs in anywhere."""
    # Without its bytecode, torch is compiled anew by every process: ten seconds each.
    # W&B leaves the address of its own process to all that this one starts.
    hidden = (
        "WANDB_API_KEY",
        "WANDB_SERVICE",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "PYTHONDONTWRITEBYTECODE",
    )
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    return env | {"OMP_NUM_THREADS": "1", "NETRC": os.devnull}


def launch(
    script: str, *arguments: str, config: str = "one_cpu", options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repo to its end; output is captured as text."""
    return subprocess.run(
        command(REPO / "scripts" / script, *arguments, config=config, options=options),
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )


class Launched:
    """A script started through the launcher, in a process group of its own, to be disturbed.

    `before` is a command that runs another, such as `ip netns exec HOST`.
    """

    def __init__(
        self,
        script: str,
        *arguments: str,
        config: str = "one_cpu",
        options: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> None:
        launched = command(REPO / "scripts" / script, *arguments, config=config, options=options)
        self.launcher = psutil.Popen(
            [*before, *launched],
            cwd=REPO,
            # A busy test machine is slower than torchrun's thirty seconds allow for.
            env={**environment(), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ranks(self) -> list[psutil.Process]:
        """The processes that run the script; ask while the launcher lives."""
        return sorted(self.launcher.children(), key=lambda process: process.pid)

    def loaders(self) -> list[psutil.Process]:
        """All ranks' loader processes: forks, with the command line of their rank."""
        return [
            child
            for rank in self.ranks()
            for child in rank.children()
            if child.cmdline() == rank.cmdline()
        ]

    def wait_until(self, happened: Callable[[], object], timeout_s: float = 500) -> None:
        """Wait for something to be seen from outside, while the launcher lives."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            if self.launcher.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it did not happen: {self.end()[1]}")
            time.sleep(0.01)

    def end(self, timeout_s: float = 200) -> tuple[int, str]:
        """Wait for the launcher and all that holds its output; its exit code, the output."""
        try:
            output, _ = self.launcher.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.launcher.returncode, output

    def kill(self) -> None:
        """SIGKILL everything at once."""
        family = [self.launcher, *self.launcher.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
