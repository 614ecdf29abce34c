"""What lies in the cache, and clearing it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vocdist.remote.cache import ABOUT_NAME, IN_USE_NAME
from vocdist.remote.lock import locked

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
    """Remove all of it, or what is of one URL: (bytes removed, folders kept as they are in use).

    In use are shards that a reader may come back to, and what a running conversion holds.
    """
    removed, kept = 0, []
    for entry in list(list_cache(root)):
        if url not in (None, entry.url):
            continue
        with _held(entry.folder) as is_free:
            if is_free:
                # Gone at once: whoever begins to read meanwhile begins anew.
                cleared = entry.folder.with_name(f".{entry.folder.name}.cleared")
                shutil.rmtree(cleared, ignore_errors=True)  # of a clearing that was killed
                os.rename(entry.folder, cleared)
                shutil.rmtree(cleared)
                removed += entry.size
            else:
                kept.append(entry.folder)
    return removed, kept


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold off readers (see `CachedFolder`) and conversions (see `shards/claim.py`), if none is."""
    with (
        locked(folder / IN_USE_NAME, wait=False, create=True) as readers,
        locked(folder / ".lock", wait=False) as conversion,
    ):
        yield readers is not None and (conversion is not None or not (folder / ".lock").exists())
