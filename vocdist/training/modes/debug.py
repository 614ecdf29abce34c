"""`--debug`: a few batches of everything a run does, in a folder of its own."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from vocdist.config import TaskConfig
from vocdist.distributed.processes import build_accelerator
from vocdist.errors import UserError
from vocdist.runs.folder import CHECKPOINTS, FINAL_WEIGHTS
from vocdist.tasks.task import task_class
from vocdist.training.run import train

EPOCHS, STEPS_PER_EPOCH = 2, 2
# Its presence says that a folder may be deleted by the next `--debug`.
_MARKER = ".made-by-debug"


def debug_run(config: TaskConfig) -> None:
    """Train, measure, save and draw on a few batches, then go on from the first checkpoint.

    All of it is the real run's code with its settings, in `<run.dir>-debug`, with anomaly mode on
    and W&B off.

    Raises:
        UserError: The folder holds something else.
    """
    accelerator = build_accelerator(config.runtime)
    small = smaller(config, on_cpu=accelerator.device.type == "cpu")
    run_dir = small.run.dir
    if accelerator.is_main_process:
        _make_room(run_dir)
    accelerator.wait_for_everyone()
    say = accelerator.print
    say(f"--debug: {EPOCHS} epochs of {STEPS_PER_EPOCH} steps in {run_dir}")
    started = time.perf_counter()
    train(small)
    before = load_file(run_dir / FINAL_WEIGHTS)
    accelerator.wait_for_everyone()
    trained = time.perf_counter()
    first = str(run_dir / CHECKPOINTS / "step-00000001")
    train(replace(small, train=replace(small.train, resume=first)))
    resumed = time.perf_counter()
    after = load_file(run_dir / FINAL_WEIGHTS)
    difference = max(
        float((after[name].double() - before[name].double()).abs().max()) for name in before
    )
    same = (
        "the very same weights" if difference == 0 else f"weights off by {difference:.1g} at most"
    )
    say(f"trained, measured, saved and drew in {trained - started:.1f} s")
    say(f"went on from step 1 in {resumed - trained:.1f} s and ended with {same}")
    left = ", ".join(sorted(path.name for path in run_dir.iterdir() if path.name[0] != "."))
    say(f"{run_dir} holds {left}")


def smaller(config: TaskConfig, *, on_cpu: bool) -> TaskConfig:
    """The settings of a debug run: the same, but for how much and where.

    A GPU gets the real batch, which may be too large for its memory; a CPU one that it can do.
    """
    few = task_class(config.task).debug_batch
    batch = min(config.train.global_batch, few) if on_cpu else config.train.global_batch
    samples = STEPS_PER_EPOCH * batch
    limit_train = min(config.data.limit_train or samples, samples)
    return replace(
        config,
        run=replace(config.run, dir=config.run.dir.with_name(config.run.dir.name + "-debug")),
        data=replace(
            config.data, limit_train=limit_train, limit_val=min(config.data.limit_val or few, few)
        ),
        train=replace(
            config.train,
            epochs=EPOCHS,
            global_batch=batch,
            log_every=1,
            save_every=1,
            keep=9,
            resume="auto",
        ),
        runtime=replace(config.runtime, detect_anomaly=True),
        tracking=replace(config.tracking, wandb="disabled"),
    )


def _make_room(run_dir: Path) -> None:
    if run_dir.exists() and not (run_dir / _MARKER).exists():
        raise UserError(f"{run_dir}: was not made by --debug: move it, or choose another run.dir")
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True)
    (run_dir / _MARKER).touch()
