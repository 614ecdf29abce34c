"""`flock` on files that others may rename or remove meanwhile; locks die with their process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = True, create: bool = False
) -> Iterator[int | None]:
    """Hold a file open and locked; yields its descriptor.

    None when there is no such file (and it is not to be created), when it lost its name before it
    could be locked, or, unless it is waited for, when another holds it.
    """
    flags = os.O_RDWR | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        yield None
        return
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        yield descriptor if _has_name(path, descriptor) else None
    finally:
        os.close(descriptor)


def _has_name(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
