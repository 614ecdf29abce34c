"""Failures of the machine in one line: a loader process that was killed, a disk that is full."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator

from vocdist.errors import NO_ROOM, SharedError, UserError

_GO_ON = "then start again: the run goes on from its last checkpoint"


@contextmanager
def explained(run_dir: Path) -> Iterator[None]:
    """Turn such failures into a `UserError`; all others pass."""
    try:
        yield
    except RuntimeError as error:
        # torch raises it wherever the main process happens to be when the loader process ends.
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a loader process was killed, most often for want of memory "
            f"({str(error).splitlines()[0].strip()}): lower data.num_workers or "
            f"train.global_batch, {_GO_ON}"
        ) from None
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"{run_dir}: cannot be written ({error.strerror}): free some space, {_GO_ON}"
        ) from None


@contextmanager
def leaving_together(accelerator: Accelerator) -> Iterator[None]:
    """Hold all ranks after a `SharedError` until each is done with what it had to close.

    The launcher ends all as soon as one has left, and the main process has a log to finish.
    """
    try:
        yield
    except SharedError:
        accelerator.wait_for_everyone()
        raise
