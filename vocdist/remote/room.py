"""Keeping the cache below its bound: what was not used for longest goes, unless it is in use."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vocdist.remote.lock import locked

PART_SUFFIX = ".part"


@dataclass(frozen=True, slots=True, order=True)
class CachedFile:
    """One object in the cache, whole or in part; `size` is that of the whole."""

    used_ns: int
    path: Path
    size: int


def part_path(final: Path, size: int) -> Path:
    """Where an object of `size` bytes lies while it comes in; the name holds its room."""
    return final.with_name(f".{final.name}.{size}{PART_SUFFIX}")


def cached_files(shards: Path) -> Iterator[CachedFile]:
    """All objects, whole or in part, in the folders below `shards`."""
    for path in shards.glob("*/*"):
        is_part = path.name.endswith(PART_SUFFIX)
        if is_part or path.suffix == ".tar":
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            size = int(path.name.split(".")[-2]) if is_part else status.st_size
            yield CachedFile(status.st_mtime_ns, path, size)


def make_room(shards: Path, needed: int, max_bytes: int) -> bool:
    """Remove what was used longest ago until `needed` bytes more fit; False if they do not.

    Call it with the cache's lock held.
    """
    files = sorted(cached_files(shards))
    total = sum(file.size for file in files)
    for file in files:
        if total + needed <= max_bytes:
            break
        if evict(file.path):
            total -= file.size
    return total + needed <= max_bytes


def last_growth(shards: Path) -> float:
    """When a download below `shards` last got some bytes, seconds since 1970; 0: none is on."""
    parts = [file for file in cached_files(shards) if file.path.name.endswith(PART_SUFFIX)]
    return max((file.used_ns for file in parts), default=0) / 1e9


def evict(path: Path) -> bool:
    """Remove a file unless a process has it in use; whether it is gone."""
    with locked(path, wait=False) as descriptor:
        if descriptor is None:
            return not path.exists()
        os.unlink(path)
        return True
