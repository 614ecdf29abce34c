"""Runs trainings in processes that are forked from one that has imported everything.

Each is a process of its own that calls the real `train`, with ranks that meet as under the real
launcher; only the import of torch and its friends, seconds for each process, is shared.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from vocdist.command import run_command
from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.config_file import load_config

CONTEXT = multiprocessing.get_context("forkserver")
# Imports only: nothing of torch may run before the fork.
CONTEXT.set_forkserver_preload(["vocdist.training.run", "torch.distributed", "forked"])

Prepare = Callable[[Path], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(
    task: str,
    overrides: Sequence[str],
    log: Path,
    *,
    world: int = 1,
    prepare: Prepare | None = None,
) -> list[ForkServerProcess]:
    """Start a training on `world` processes; output goes to `log`, `prepare(log)` runs first."""
    port, ranks = free_port(), []
    log.mkdir(parents=True, exist_ok=True)
    for rank in range(world):
        environment: dict[str, object] = {}
        if world > 1:
            environment |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        # As if the cores were shared by many: one thread each, which a busy machine forgives.
        environment["LOCAL_WORLD_SIZE"] = 64
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


def _train(
    task: str,
    overrides: list[str],
    environment: dict[str, object],
    log: Path,
    prepare: Prepare | None,
) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    os.environ["OMP_NUM_THREADS"] = "1"
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
