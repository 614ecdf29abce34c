"""One writer per folder: a lock that dies with its process, and a token that its workers check.

The lock is `flock` on `.lock` in the folder: held on this machine, and across machines where the
file system carries it (NFSv4, most cluster file systems); a file system without locks is refused.
Workers may outlive a killed run for a moment. Each compares its run's lock token with the folder's
before it gives a file its final name, so that it cannot write into the work of the next run.
"""

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vocdist.errors import UserError
from vocdist.files.lock import HeldByAnotherError, NoLocksError, held_alone

LOCK_NAME = ".lock"


@contextmanager
def locked_for_writing(folder: Path) -> Iterator[str]:
    """Hold `folder` alone, made where it is missing; yields the lock token, new each time.

    A folder that was made for it and stays empty is removed again.

    Raises:
        UserError: Another run holds it, it cannot be written, or the file system has no locks.
    """
    made = not folder.exists()
    with ExitStack() as stack:
        descriptor = _hold(folder / LOCK_NAME, stack)
        try:
            lock_token = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
            try:
                os.truncate(descriptor, 0)
                os.write(descriptor, lock_token.encode())
                # Now, as workers on other machines read it.
                os.fsync(descriptor)
            except OSError as error:
                raise write_error(folder, error) from None
            yield lock_token
        finally:
            # While it is still ours: whoever locks the file next finds that it has no name.
            (folder / LOCK_NAME).unlink(missing_ok=True)
            stack.close()
            if made:
                with suppress(OSError):  # not empty
                    folder.rmdir()


def check_lock_token(folder: Path, lock_token: str) -> None:
    """Stop a worker whose run does not hold the folder any more.

    Raises:
        UserError: The lock token is not the folder's.
    """
    try:
        current = (folder / LOCK_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        current = ""
    if current != lock_token:
        raise UserError(
            f"{folder}: this run does not hold the folder any more, or {socket.gethostname()}, "
            f"which works for it, does not see the folder"
        )


def write_error(folder: Path, error: OSError) -> UserError:
    """The error to raise when writing into `folder` failed."""
    return UserError(
        f"{folder}: cannot be written ({error.strerror or error}): free some space or choose "
        f"another output, then run the same command again"
    )


def _hold(path: Path, stack: ExitStack) -> int:
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # its last holder has just removed the folder
                return stack.enter_context(held_alone(path))
    except HeldByAnotherError as holder:
        raise UserError(
            f"{path.parent}: another run is writing here ({holder}): wait for it to end, or "
            f"choose another output"
        ) from None
    except NoLocksError as error:
        raise UserError(
            f"{path}: cannot be locked ({error}): write to a file system with locks, such as the "
            f"local disk, and copy the folder"
        ) from None
    except OSError as error:
        raise write_error(path.parent, error) from None
