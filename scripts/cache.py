"""Show, check or clear the local copies of what was read from URLs.

  python scripts/cache.py
  python scripts/cache.py verify
  python scripts/cache.py clear [s3://bucket/shards/voc2012]

Usage: cache.py [verify | clear [URL]] [--dir FOLDER]; FOLDER is the cache, if not the usual one
($VOCDIST_CACHE, else ~/.cache/vocdist). What is in use is kept.
"""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vocdist.cli import run_command, take_option
from vocdist.errors import UserError
from vocdist.remote.cache import clear_cache, default_cache, list_cache
from vocdist.remote.location import parse_location
from vocdist.shards.verify import drop_damaged


def main(arguments: list[str]) -> None:
    """Do what the first word says."""
    folder, rest = take_option(arguments, "--dir")
    root = Path(folder).expanduser() if folder else default_cache()
    match rest:
        case []:
            show(root)
        case ["verify"]:
            verify(root)
        case ["clear"]:
            clear(root, None)
        case ["clear", url]:
            clear(root, str(parse_location(url)))
        case _:
            raise UserError("cache.py knows verify, clear and clear URL, or nothing to show it")


def show(root: Path) -> None:
    """A line per URL."""
    table = Table("what", "URL", "files", "MB", "folder")
    entries = list(list_cache(root))
    for entry in entries:
        size = f"{entry.size / 1e6:,.1f}"
        table.add_row(entry.kind, entry.url, f"{entry.files:,}", size, entry.folder.name)
    if entries:
        Console().print(table)
    print(f"{root}: {sum(entry.size for entry in entries) / 1e6:,.1f} MB")


def verify(root: Path) -> None:
    """Exit code 1 if a copy was damaged; it is removed, to be fetched again."""
    checked = list(drop_damaged(root))
    damaged = [path for path, right in checked if not right]
    for path in damaged:
        print(f"{path}: damaged, removed")
    print(f"{root}: {len(checked):,} shards, {len(damaged):,} damaged")
    if damaged:
        sys.exit(1)


def clear(root: Path, url: str | None) -> None:
    """Say what went and what stayed."""
    removed, kept = clear_cache(root, url)
    for path in kept:
        print(f"{path}: in use, kept")
    print(f"{root}: {removed / 1e6:,.1f} MB removed")


if __name__ == "__main__":
    run_command(main, __doc__)
