"""Checks of whole files, not repeated while size, time and inode are those of the last check.

Two memories: a note beside the file, which lasts (`is_still_right`), and one of this start of the
program, which the processes of one launcher share (`sha256_once`).
"""

import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from vocdist.files.atomic import replaced_when_done
from vocdist.files.lock import locked

NOTE_SUFFIX = ".checked"
# A file that changed so shortly ago may change again within the same tick of its file system's
# clock, and keep its time.
SETTLED_NS = 2_000_000_000
_OLD_START_S = 24 * 3600.0
# Path -> its stamp and digest, of this process.
_digests: dict[Path, tuple[str, str]] = {}


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read now."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamp(path: Path) -> str:
    """What changes when a file is written or replaced: its size, time (ns) and inode.

    Raises:
        OSError: There is no such file.
    """
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def note_path(path: Path) -> Path:
    """Where the note of a file's last check lies."""
    return path.with_name(f".{path.name}{NOTE_SUFFIX}")


def is_still_right(path: Path, check: Callable[[], bool], what: str = "") -> bool:
    """Whether a file is there and right: by its note, or by `check`, which then leaves one.

    `what` was asked of the file: a note of another question does not count. Where no note can be
    written, the next call checks again.
    """
    note = note_path(path)
    try:
        before = stamp(path)
        with suppress(OSError, UnicodeDecodeError):
            if note.read_text(encoding="utf-8") == f"{before} {what}":
                return True
        if not check():
            return False
        if stamp(path) == before and _is_settled(path):
            with suppress(OSError), replaced_when_done(note) as temporary:
                temporary.write_text(f"{before} {what}", encoding="utf-8")
    except OSError:
        return False
    return True


def forget(path: Path) -> None:
    """Have the next call check a file again."""
    note_path(path).unlink(missing_ok=True)


def sha256_once(path: Path) -> str:
    """Hex SHA-256 of a file, computed once by all processes that a launcher started on a machine.

    The others wait for the one that reads the file. A later start reads it again.

    Raises:
        OSError: It cannot be read.
    """
    path, now = path.absolute(), stamp(path)
    if path in _digests and _digests[path][0] == now:
        return _digests[path][1]
    memory = _memory_of_this_start()
    if memory is None or not _is_settled(path):
        digest = file_sha256(path)
    else:
        name = hashlib.sha256(os.fsencode(f"{path}\n{now}")).hexdigest()
        try:
            digest = _shared_digest(memory / name, path)
        except OSError:  # of the memory, or of the file: then it is raised again
            digest = file_sha256(path)
    if stamp(path) == now and _is_settled(path):
        _digests[path] = now, digest
    return digest


def _shared_digest(entry: Path, path: Path) -> str:
    with locked(entry, create=True) as descriptor:
        if descriptor is None:  # somebody tidied the folder
            return file_sha256(path)
        known = os.pread(descriptor, 65, 0).decode("ascii", "replace")
        if len(known) == 64:
            return known
        digest = file_sha256(path)
        with suppress(OSError):  # a full disk: the next one reads the file too
            os.pwrite(descriptor, digest.encode(), 0)
        return digest


def _is_settled(path: Path) -> bool:
    return time.time_ns() - path.stat().st_mtime_ns > SETTLED_NS


@cache
def _memory_of_this_start() -> Path | None:
    """A folder that the processes of one launcher share on this machine; None: there are none."""
    if os.environ.get("LOCAL_WORLD_SIZE", "1") == "1":
        return None
    user = Path(tempfile.gettempdir()) / f"vocdist-{os.getuid()}"
    try:
        parent = psutil.Process(os.getppid())
        started = f"{parent.pid} {parent.create_time()}"
        folder = user / hashlib.sha256(started.encode()).hexdigest()[:20]
        for each in (user, folder):
            each.mkdir(mode=0o700, exist_ok=True)
            status = each.lstat()
            # Everybody may write to the folder above: what another user has put there is not read.
            private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
            if not private or status.st_uid != os.getuid():
                return None
        for other in user.iterdir():
            if time.time() - other.stat().st_mtime > _OLD_START_S and other != folder:
                shutil.rmtree(other, ignore_errors=True)
    except (OSError, psutil.Error):
        return None
    return folder
