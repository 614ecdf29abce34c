"""What lies in the cache, and clearing it."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vocdist.remote.cache import ABOUT_NAME
from vocdist.remote.lock import locked
from vocdist.remote.room import cached_files, evict

# Shards that were read, VOC trees that were converted, shards on their way to a URL.
KINDS = ("shards", "sources", "staging")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What the cache holds of one URL (and, for shards, of one manifest): files and their bytes."""

    kind: str
    url: str
    folder: Path
    files: int
    size: int


def list_cache(root: Path) -> Iterator[CacheEntry]:
    """Everything in the cache at `root`."""
    for kind in KINDS:
        for about in sorted((root / kind).glob(f"*/{ABOUT_NAME}")):
            sizes = [p.stat().st_size for p in about.parent.rglob("*") if p.is_file()]
            url = json.loads(about.read_text(encoding="utf-8"))["url"]
            yield CacheEntry(kind, url, about.parent, len(sizes), sum(sizes))


def clear_cache(root: Path, url: str | None = None) -> tuple[int, list[Path]]:
    """Remove all of it, or what is of one URL: (bytes removed, files kept as they are in use).

    What a running conversion holds is kept.
    """
    removed, kept = 0, []
    for entry in list(list_cache(root)):
        if url not in (None, entry.url):
            continue
        in_use = []
        if entry.kind == "shards":
            mine = [f for f in cached_files(root / "shards") if f.path.parent == entry.folder]
            in_use = [file.path for file in mine if not evict(file.path)]
        elif _is_held(entry.folder):
            in_use = [entry.folder]
        if in_use:
            kept += in_use
            continue
        shutil.rmtree(entry.folder)
        removed += entry.size
    return removed, kept


def _is_held(folder: Path) -> bool:
    """Whether a conversion is at work there (it locks this file, see `shards/claim.py`)."""
    with locked(folder / ".lock", wait=False) as descriptor:
        return descriptor is None and (folder / ".lock").exists()
