"""A VOC tree behind a URL, copied to this machine: what a conversion reads of it, and no more."""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.files.atomic import temporary_path
from vocdist.files.lock import InUse, locked
from vocdist.remote.cache import folder_in_use
from vocdist.remote.location import open_filesystem, parse_location
from vocdist.remote.transfer import NotThereError, retried
from vocdist.voc.split import list_part

FETCHES = 16
NOTES_NAME = "fetched.jsonl"
# What a server says of an object that changes when it is written.
FACTS = ("size", "ETag", "etag", "LastModified", "mtime", "updated", "created")

# Copies that this process reads, now or later: they are not cleared while it lives.
_in_use: dict[Path, InUse] = {}


def copy_voc_tree(url: str, root: Path) -> Path:
    """Copy annotations, images and split lists below a URL into a folder below `root`.

    Files that were copied before and have not changed since, as far as the server says, are not
    fetched again. The copy stays in the cache until this process ends.

    Raises:
        UserError: It cannot be read or listed, or holds no VOC tree.
    """
    url = str(parse_location(url))
    base, hold = folder_in_use(root, "sources", url)
    _in_use[base] = hold
    # One process at a time brings it up to date.
    with locked(base / ".lock", create=True):
        _update(url, base / "tree", base / NOTES_NAME)
    return base / "tree"


def _update(url: str, tree: Path, notes: Path) -> None:
    """Make a copy what the URL holds now."""
    wanted = _wanted(url)
    known = _read_notes(notes)
    for path in [p for p in tree.rglob("*") if p.is_file()]:
        if path.relative_to(tree).as_posix() not in wanted:
            path.unlink()
    missing = [
        name
        for name, info in wanted.items()
        if known.get(name) != _facts(info) or not (tree / name).is_file()
    ]
    with (
        ThreadPoolExecutor(FETCHES) as pool,
        notes.open("a", encoding="utf-8") as stream,
        # disable=None: no bar where stderr is not a terminal.
        tqdm(total=len(missing), desc="fetch", unit="file", disable=None) as bar,
    ):
        try:
            fetched = pool.map(lambda n: _fetch(url, wanted[n]["name"], tree / n), missing)
            for name, _ in zip(missing, fetched, strict=True):
                stream.write(json.dumps([name, _facts(wanted[name])]) + "\n")
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _wanted(url: str) -> dict[str, Mapping[str, Any]]:
    """Path below the URL -> what the server says of it, for the files that a conversion reads."""

    def find() -> tuple[str, dict[str, Any]]:
        fs, path = open_filesystem(url)
        fs.invalidate_cache()
        return path, fs.find(path, detail=True)

    try:
        path, found = retried(url, find)
    except NotThereError:
        found = {}
    wanted: dict[str, Mapping[str, Any]] = {}
    for name, info in found.items():
        relative = name[len(path) :].lstrip("/")
        if url.startswith("http"):
            relative = unquote(relative)
        parts = PurePosixPath(relative).parts
        # A server may list what it likes: nothing of it lies outside the tree.
        below = ".." not in parts and not relative.startswith("/")
        if _is_read(parts) and below and "?" not in relative:
            wanted["/".join(parts)] = {**info, "name": name}
    if not wanted:
        raise UserError(
            f"{url}: no VOC data set is listed there: it needs folders Annotations and JPEGImages, "
            f"and over http a server that lists its folders"
        )
    return wanted


def _is_read(parts: tuple[str, ...]) -> bool:
    if len(parts) < 2:
        return False
    return parts[-2] in ("Annotations", "JPEGImages") or (
        parts[-3:-1] == ("ImageSets", "Main") and list_part(parts[-1]) is not None
    )


def _fetch(url: str, remote: str, local: Path) -> None:
    def read() -> bytes:
        fs, _ = open_filesystem(url)
        content: bytes = fs.cat_file(remote)
        return content

    content = retried(remote, read)
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(local)
    temporary.write_bytes(content)
    # Not fsynced, as there are tens of thousands: images and XML are checked when they are read.
    os.replace(temporary, local)


def _facts(info: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(info[name]) for name in FACTS if name in info}


def _read_notes(notes: Path) -> dict[str, Any]:
    known = {}
    for line in notes.read_bytes().splitlines() if notes.exists() else ():
        try:
            name, facts = json.loads(line)
            known[name] = facts
        except ValueError:
            continue  # cut by a kill
    return known
