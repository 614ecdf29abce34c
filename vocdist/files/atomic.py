"""Files and folders that appear under their final name whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def replaced_when_done(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside `final`; on success fsync it and rename it to `final`.

    The caller makes a file or a folder of it. A file replaces a file; no folder can be replaced so
    that one of the two is there at any moment, so a folder must not be there yet.
    After an exception the temporary one is removed and `final` is as it was.
    """
    # The process id keeps two writers of one file from sharing a temporary.
    temporary = final.with_name(f".{final.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, final)
    except BaseException:
        _remove(temporary)
        raise
    # A rename survives a power cut only when its folder's entry does.
    fsync(final.parent)


def fsync(path: Path) -> None:
    """Wait until a file or a folder's entries are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left behind in a folder."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
