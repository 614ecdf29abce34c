"""How a run stands, `status.json`, and how it ends: finished, interrupted, alone or failed.

Failures of the machine, a killed loader process or a full disk, end in one line.

Exit codes do not come through `accelerate launch` (whatever the script says, it says 1), so whoever
starts runs again reads the file.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from accelerate import Accelerator

from vocdist.data.workers import GO_ON, loader_errors
from vocdist.distributed.agreement import StopAgreed
from vocdist.distributed.preemption import StopRequest
from vocdist.distributed.processes import is_lost_process
from vocdist.errors import DISK_FULL, Interrupted, ProcessLost, SharedError, UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.training.loop import Trainer

STATUS = "status.json"

# `running` without a process: it was killed. All but `failed` and `finished` call for a restart.
State = Literal["running", "interrupted", "lost", "failed", "finished"]


def run_to_the_end(
    trainer: Trainer, stop: StopRequest, run_dir: Path, work: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Do the `work` of a run, on every rank, and leave its status in the run folder.

    Raises:
        Interrupted: Asked to stop, the run has saved its position.
        ProcessLost: Another rank has ended or does not answer.
    """
    status = _Status(trainer, run_dir)
    status.write("running")
    try:
        try:
            results = work()
        except StopAgreed:
            trainer.saver.save_for_a_stop(trainer.position)
            status.write("interrupted", stop.reason)
            raise Interrupted(
                f"interrupted at step {trainer.position.global_step} by {stop.reason}, and saved: "
                f"start it again to go on"
            ) from None
    except Interrupted:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if is_lost_process(error):
            status.write("lost", reason)
            raise ProcessLost(
                f"another process of this run has ended or does not answer (if it said why, it "
                f"stands above): start the run again to go on from its last checkpoint [{reason}]"
            ) from error
        status.write("failed", reason)
        raise
    status.write("finished")
    return results


class _Status:
    """Writes `status.json`, on one process."""

    def __init__(self, trainer: Trainer, run_dir: Path) -> None:
        self._trainer = trainer
        self._path = run_dir / STATUS

    def write(self, state: State, reason: str | None = None) -> None:
        if not self._trainer.accelerator.is_main_process:
            return
        position = self._trainer.position
        saved = self._trainer.saver.saved
        status = {
            "state": state,
            "epoch": position.epoch,
            "step": position.step,
            "global_step": position.global_step,
            "saved_step": saved.global_step if saved else None,
            "reason": reason,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        with replaced_when_done(self._path) as temporary:
            temporary.write_text(json.dumps(status, indent=1) + "\n", encoding="utf-8")


@contextmanager
def readable_errors(run_dir: Path) -> Iterator[None]:
    """Turn failures of the machine, such as a full disk, into a `UserError`; all others pass."""
    try:
        with loader_errors():
            yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{run_dir}: cannot be written ({error.strerror}): free some space, {GO_ON}"
        ) from None


@contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """Hold all ranks after a `SharedError` until each is done with what it had to close.

    The launcher ends all as soon as one has left, and the main process has a log to finish.
    """
    try:
        yield
    except SharedError:
        accelerator.wait_for_everyone()
        raise
