"""Whole files or none: read in one call, replaced when they are done."""

import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"
# A temporary of another machine is left behind when it has not grown for so long: whether its
# writer lives cannot be seen from here.
LEFT_BEHIND_S = 24 * 3600.0
_WRITER = re.compile(rf"\.(?P<machine>[\w-]+)-(?P<pid>\d+)-[0-9a-f]{{12}}{TEMPORARY_SUFFIX}$")
# Names that this process is writing under at this moment.
_writing: set[str] = set()


def read_content(path: Path | str) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: As `open` does.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        # One more, so that a file that grew meanwhile shows.
        content = os.read(descriptor, size + 1)
    finally:
        os.close(descriptor)
    # Else it grew, is beyond the 2 GiB of one call, or its file system does not know its size.
    return content if len(content) == size else Path(path).read_bytes()


def unique_name() -> str:
    """A word that no other process has, on this machine or another: `MACHINE-PID-RANDOM`."""
    return f"{_machine()}-{os.getpid()}-{secrets.token_hex(6)}"


def temporary_path(final: Path) -> Path:
    """A path beside `final` that no other writer has, on this machine or another."""
    # Cut, so that a long name stays within the 255 bytes that file systems allow.
    name = final.name.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
    return final.with_name(f".{name}.{unique_name()}{TEMPORARY_SUFFIX}")


@contextmanager
def replaced_when_done(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside `final`; on success fsync it and rename it to `final`.

    The caller makes a file or a folder of it. A file replaces a file; no folder can be replaced so
    that one of the two is there at any moment, so a folder must not be there yet.
    After an exception the temporary one is removed and `final` is as it was.
    """
    temporary = temporary_path(final)
    _writing.add(temporary.name)
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, final)
    except BaseException:
        _remove(temporary)
        raise
    finally:
        _writing.discard(temporary.name)
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
    """Remove what killed writers left behind in a folder, and nothing that is being written.

    Those without a writer in their name (a conversion's, which holds the folder alone) all go.
    """
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        if _is_left_behind(path):
            _remove(path)


def _is_left_behind(path: Path) -> bool:
    writer = _WRITER.search(path.name)
    if writer is None:
        return True
    pid = int(writer["pid"])
    if writer["machine"] != _machine():
        return time.time() - _last_change(path) > LEFT_BEHIND_S
    # In a container that was started again, an earlier process may have had this one's number.
    return path.name not in _writing if pid == os.getpid() else not _is_alive(pid)


def _last_change(path: Path) -> float:
    """Of a file, or of a folder and what is in it; seconds since 1970."""
    last = 0.0
    for each in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # its writer is done with it
            last = max(last, each.stat().st_mtime)
    return last or time.time()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True


@cache
def _machine() -> str:
    """Name of what gives process ids: the host since its start, or the container on it.

    Containers may share the host's name and its folders, and each counts its processes from 1.
    """
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    host = re.sub(r"\W+", "-", socket.gethostname())[:40]
    return f"{host}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
