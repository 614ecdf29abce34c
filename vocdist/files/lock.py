"""`flock` on files that others may rename or remove meanwhile; locks die with their process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

# Open in this process now. A lock belongs to whoever has the descriptor, so a child that another
# thread forks meanwhile would hold it for as long as it lives.
_held: set[int] = set()


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = True, create: bool = False
) -> Iterator[int | None]:
    """Hold a file open and locked; yields its descriptor.

    None when there is no such file (and it is not to be created), when it lost its name before it
    could be locked, or, unless it is waited for, when another holds it.
    """
    _let_go_in_children()
    flags = os.O_RDWR | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        yield None
        return
    _held.add(descriptor)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield descriptor if _has_name(path, descriptor) else None
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


class HeldByAnotherError(Exception):
    """Another process holds the file; the message is what that one wrote into it."""


class NoLocksError(Exception):
    """The file system has no locks; the message is the system's."""


@contextmanager
def held_alone(path: Path) -> Iterator[int]:
    """Hold a file, made where it is missing, for this process alone; yields its descriptor.

    The lock is held on this machine, and across machines where the file system carries it (NFSv4,
    most cluster file systems). What the holder writes into the file is told to others.

    Raises:
        HeldByAnotherError: Another process holds it.
        NoLocksError: The file system has no locks.
        OSError: It cannot be made.
    """
    _let_go_in_children()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        _held.add(descriptor)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace")
                raise HeldByAnotherError(holder or "just started") from None
            except OSError as error:
                raise NoLocksError(error.strerror) from None
            if not _has_name(path, descriptor):
                continue  # its last holder removed it when done
            yield descriptor
            return
        finally:
            _held.discard(descriptor)
            os.close(descriptor)


class InUse:
    """A shared lock on a file, made where it is missing, for as long as this object lives.

    Children that are forked share it; sent to another process, it is taken there anew.
    """

    def __init__(self, path: Path) -> None:
        """Wait while another holds the file for itself, and then for one that still has its name.

        Raises:
            FileNotFoundError: The file's folder went away meanwhile.
        """
        self.path = path
        self._descriptor = -1
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if _has_name(path, self._descriptor):
                return
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """Let go."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def __reduce__(self) -> tuple[type["InUse"], tuple[Path]]:
        """A descriptor means nothing to another process."""
        return InUse, (self.path,)


def _has_name(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@cache
def _let_go_in_children() -> None:
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    while _held:
        with suppress(OSError):
            os.close(_held.pop())
