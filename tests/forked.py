"""Runs scripts and trainings in processes forked from one that has imported everything.

Each is a process of its own that runs the real script, or calls the real `train`, with ranks that
meet as under the real launcher; only the import of torch and its friends, seconds for each process,
is shared. `launch.py` is for tests of what the launcher does.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import launch

from vocdist.cli import run_command
from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config.file import load_config

CONTEXT = multiprocessing.get_context("forkserver")
# Imports only: nothing of torch may run before the fork. With what a training takes at its end:
# scikit-learn and matplotlib are half of the time of the smallest one.
CONTEXT.set_forkserver_preload(
    [
        "vocdist.training.run",
        "vocdist.tasks.classifier",
        "vocdist.tasks.rpn",
        "vocdist.report.curves",
        "matplotlib.backends.backend_agg",
        "sklearn.metrics",
        "torch.distributed",
        "forked",
    ]
)

Prepare = Callable[[Path], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environments(world: int) -> list[dict[str, str]]:
    """What the launcher tells each rank."""
    # As if the cores were shared by many: one thread each, which a busy machine forgives.
    alone = {"LOCAL_WORLD_SIZE": "64", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if world == 1:
        return [alone]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared = alone | meeting | {"WORLD_SIZE": str(world)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def run_script(
    script: str | Path, *arguments: str, world: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run a script of the repo on `world` processes, without the launcher; output as text."""
    path = launch.REPO / "scripts" / script
    with tempfile.TemporaryDirectory() as folder:
        log, ranks = Path(folder), []
        for rank, environment in enumerate(environments(world)):
            called = (path, list(arguments), environment, log / str(rank))
            process = CONTEXT.Process(target=_run_script, args=called)
            process.start()
            ranks.append(process)
        for process in ranks:
            process.join(240)
        codes = [process.exitcode for process in ranks]
        stdout, stderr = (
            "".join((log / f"{rank}.{name}").read_text() for rank in range(world))
            for name in ("out", "err")
        )
    code = next((code for code in codes if code != 0), 0)
    return subprocess.CompletedProcess([str(path), *arguments], code or 0, stdout, stderr)


def start_ranks(
    task: str,
    overrides: Sequence[str],
    log: Path,
    *,
    world: int = 1,
    prepare: Prepare | None = None,
) -> list[ForkServerProcess]:
    """Start a training on `world` processes; output goes to `log`, `prepare(log)` runs first."""
    ranks = []
    log.mkdir(parents=True, exist_ok=True)
    for environment in environments(world):
        arguments = (task, list(overrides), environment, log, prepare)
        process = CONTEXT.Process(target=_train, args=arguments)
        process.start()
        ranks.append(process)
    return ranks


def train_to_the_end(
    task: str,
    overrides: Sequence[str],
    log: Path,
    *,
    world: int = 1,
    prepare: Prepare | None = None,
) -> str:
    """Train, and return what was printed; a failure raises with it."""
    ranks = start_ranks(task, overrides, log, world=world, prepare=prepare)
    for process in ranks:
        process.join(240)
    text = "".join((log / f"{process.pid}.out").read_text() for process in ranks)
    assert [process.exitcode for process in ranks] == [0] * world, text
    return text


def note_samples(log: Path) -> None:
    """Write down, in this process, what each rank computes: epoch, step, real samples."""
    from vocdist.data.loader import BatchLoader
    from vocdist.shards.reader import ShardReader

    original, read = BatchLoader.training, ShardReader.read
    file = (log / f"samples-{os.getpid()}.jsonl").open("a", buffering=1)
    reads = (log / f"reads-{os.getpid()}.txt").open("a", buffering=1)

    def training(self, epoch, start_step=0):  # type: ignore[no-untyped-def]
        step = start_step
        for batch in original(self, epoch, start_step):
            yield batch
            indices = batch.indices[batch.weights > 0].tolist()
            file.write(json.dumps([epoch, step, self.rank, indices]) + "\n")
            step += batch.ends_step

    def counted_read(self, index):  # type: ignore[no-untyped-def]
        reads.write(f"{self.split} {index}\n")
        return read(self, index)

    BatchLoader.training = training  # type: ignore[method-assign]
    ShardReader.read = counted_read  # type: ignore[method-assign]


def _run_script(
    path: Path, arguments: list[str], environment: dict[str, str], output: Path
) -> None:
    clean = launch.environment()
    os.environ.clear()
    os.environ.update(clean | environment)
    os.chdir(launch.REPO)
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = output.with_suffix(f".{name}").open("w")
        # The descriptor as well: not all that speaks is Python.
        os.dup2(file.fileno(), stream.fileno())
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")


def _train(
    task: str,
    overrides: list[str],
    environment: dict[str, str],
    log: Path,
    prepare: Prepare | None,
) -> None:
    os.environ.update(environment)
    output = (log / f"{os.getpid()}.out").open("w", buffering=1)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            sys.argv = ["train"]
            if prepare:
                prepare(log)
            config_type = ClassifierConfig if task == "classifier" else RpnConfig

            def main(_: list[str]) -> None:
                from vocdist.training.run import train

                train(load_config(config_type, None, overrides))

            run_command(main, None)
        except Exception:
            traceback.print_exc()
            raise
