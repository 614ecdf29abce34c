"""One writer per folder: a lock that dies with its process, and a claim that its workers check.

The lock is `flock` on `.lock` in the folder: held on this machine, and across machines where the
file system carries it (NFSv4, most cluster file systems); a file system without locks is refused.
Workers may outlive a killed run for a moment. Each shows the claim of its run before it gives a
file its final name, so that it cannot write into the work of the run that came after.
"""

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vocdist.errors import UserError

LOCK_NAME = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[str]:
    """Hold `folder` alone, made where it is missing; yields the claim, a word new each time.

    A folder that was made for it and stays empty is removed again.

    Raises:
        UserError: Another run holds it, it cannot be written, or the file system has no locks.
    """
    made = not folder.exists()
    descriptor = _locked(folder / LOCK_NAME)
    try:
        claim = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        try:
            os.truncate(descriptor, 0)
            os.write(descriptor, claim.encode())
            # Now, as workers on other machines read it.
            os.fsync(descriptor)
        except OSError as error:
            raise cannot_be_written(folder, error) from None
        yield claim
    finally:
        # While it is still ours: whoever locks the file next finds that it has no name any more.
        (folder / LOCK_NAME).unlink(missing_ok=True)
        os.close(descriptor)
        if made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def check_claim(folder: Path, claim: str) -> None:
    """Stop a worker whose run does not hold the folder any more.

    Raises:
        UserError: The claim is not the folder's.
    """
    try:
        current = (folder / LOCK_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        current = ""
    if current != claim:
        raise UserError(
            f"{folder}: this run does not hold the folder any more, or {socket.gethostname()}, "
            f"which works for it, does not see the folder"
        )


def cannot_be_written(folder: Path, error: OSError) -> UserError:
    """The error to raise when writing into `folder` failed."""
    return UserError(
        f"{folder}: cannot be written ({error.strerror or error}): free some space or choose "
        f"another output, then run the same command again"
    )


def _locked(path: Path) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_be_written(path.parent, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "just started"
            os.close(descriptor)
            raise UserError(
                f"{path.parent}: another run is writing here ({holder}): wait for it to end, or "
                f"choose another output"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"{path}: cannot be locked ({error.strerror}): write to a file system with locks, "
                f"such as the local disk, and copy the folder"
            ) from None
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file still has its name: its last holder removed it when done."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
