"""Room for files of features in a folder that runs share: what one uses, no other removes."""

import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from vocdist.errors import UserError
from vocdist.remote.lock import locked

GIB = 2**30
_LOCK = ".lock"
_IN_USE = "in-use"
_REMEDY = "lower input.short_side, set input.flip=false, or compute them in each epoch with "


class Hold:
    """Keeps files from removal, those that are yet to be made too, for as long as it lives.

    They are listed in a file of its own, locked until it is released or its process is gone.
    """

    def __init__(self, folder: Path, sizes: Mapping[Path, float]) -> None:
        """Hold files of `folder`, which is locked, and say how many bytes each takes."""
        name = f".{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.{_IN_USE}"
        self._path, self._process = folder / name, os.getpid()
        self._lock = ExitStack()
        self._lock.enter_context(locked(self._path, create=True))
        lines = (f"{size:.0f} {path.name}" for path, size in sizes.items())
        self._path.write_text("\n".join(lines), encoding="utf-8")

    def release(self) -> None:
        """Let the files go."""
        # A forked child has the object and not the lock.
        if self._process == os.getpid():
            self._path.unlink(missing_ok=True)
            self._lock.close()

    def __del__(self) -> None:
        """Let the files go with whatever used them."""
        with suppress(OSError):
            self.release()


def hold_with_room(folder: Path, sizes: Mapping[Path, float], max_gib: float) -> Hold:
    """Hold files of these many bytes in `folder`, and make room for those that are missing.

    Of the files that nobody holds those go that were used longest ago.

    Raises:
        UserError: They exceed the bound or the disk, or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # One at a time: who looks for room sees what all others hold.
        with locked(folder / _LOCK, create=True):
            _make_room(folder, sizes, max_gib)
            return Hold(folder, sizes)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be used for cached features ({error.strerror}): "
            f"name another features.folder, or set features.cache=false"
        ) from None


def _make_room(folder: Path, sizes: Mapping[Path, float], max_gib: float) -> None:
    there = {path: path.stat() for path in folder.glob("*.safetensors")}
    actual = {path: float(stat.st_size) for path, stat in there.items()}
    own = {path: actual.get(path, size) for path, size in sizes.items()}
    others = {path: actual.get(path, size) for path, size in _held(folder).items()}
    kept = sum((own | others).values())
    if kept > max_gib * GIB:
        beside = f"and with those of runs that are going {kept / GIB:.3g} " if others else ""
        raise UserError(
            f"{folder}: the features of this run's splits take {sum(own.values()) / GIB:.3g} GiB "
            f"{beside}in all, more than features.max_gib={max_gib:g}: raise it to at least "
            f"{kept / GIB * 1.02:.3g}, {_REMEDY}features.cache=false"
        )
    total = sum((actual | own | others).values())
    unused = actual.keys() - own.keys() - others.keys()
    for path in sorted(unused, key=lambda path: there[path].st_mtime):
        if total <= max_gib * GIB:
            break
        path.unlink(missing_ok=True)
        total -= actual[path]
    missing = sum(size for path, size in own.items() if path not in there)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(
            f"{folder}: features take {missing / GIB:.3g} GiB more and the disk has "
            f"{free / GIB:.3g}: name another features.folder, {_REMEDY}features.cache=false"
        )


def _held(folder: Path) -> dict[Path, float]:
    """Sizes of the files that others hold; what killed runs have held is let go."""
    held: dict[Path, float] = {}
    for path in folder.glob(f".*.{_IN_USE}"):
        with locked(path, wait=False) as left_behind:
            if left_behind is not None:
                path.unlink(missing_ok=True)
                continue
        with suppress(FileNotFoundError):  # released at this moment
            for line in path.read_text(encoding="utf-8").splitlines():
                size, _, name = line.partition(" ")
                held[folder / name] = float(size)
    return held
