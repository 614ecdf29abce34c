"""Files to a URL: each whole under its name or not at all, and only those that are not there."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vocdist.errors import UserError
from vocdist.remote.download import RANGE_BYTES
from vocdist.remote.filesystem import open_filesystem
from vocdist.remote.location import join
from vocdist.remote.retry import NotThereError, retried

UPLOADS = 4
# Where an object appears when its upload ends; elsewhere it is put beside and moved.
ATOMIC = ("s3://", "gs://", "hf://")


def upload_files(files: Sequence[Path], url: str, notes: Path) -> Iterator[Path]:
    """Put files of one folder under a URL, several at a time; yields each when it is there.

    An object counts as there when it has the file's bytes. That is known by `notes`, where each
    upload leaves the file's hash and what the server says of the object (size, ETag, date); an
    object without such a note, or changed since, is read back and hashed.

    Raises:
        UserError: It cannot be written.
    """
    known = _read_notes(notes)
    with ThreadPoolExecutor(UPLOADS) as pool, notes.open("a", encoding="utf-8") as stream:
        tasks = [pool.submit(_upload, path, join(url, path.name), known) for path in files]
        try:
            for path, task in zip(files, tasks, strict=True):
                note = {"name": path.name, **task.result()}
                stream.write(json.dumps(note) + "\n")
                stream.flush()
                yield path
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def check_unchanged(names: Sequence[str], url: str, notes: Path) -> None:
    """Refuse to go on where another writer has replaced what this one uploaded.

    Raises:
        UserError: An object is not as it was right after its upload.
    """
    known = _read_notes(notes)
    with ThreadPoolExecutor(UPLOADS) as pool:
        facts = pool.map(lambda name: object_facts(join(url, name)), names)
        for name, now in zip(names, facts, strict=True):
            if now != known[name]["facts"]:
                raise UserError(
                    f"{join(url, name)}: was replaced meanwhile, by another run that writes there: "
                    f"let it end, or choose another output"
                )


def object_facts(url: str) -> dict[str, str] | None:
    """What the server says of an object, which changes when it is written; None: there is none."""

    def ask() -> dict[str, Any]:
        fs, path = open_filesystem(url)
        fs.invalidate_cache()
        info: dict[str, Any] = fs.info(path)
        return info

    try:
        return {key: str(value) for key, value in sorted(retried(url, ask).items())}
    except NotThereError:
        return None


def list_names(url: str) -> list[str]:
    """Names of the objects right below a URL, none where there is nothing."""

    def ask() -> list[str]:
        fs, path = open_filesystem(url)
        fs.invalidate_cache()
        try:
            return [entry["name"] for entry in fs.ls(path, detail=True)]
        except FileNotFoundError:
            return []

    return sorted(name.rstrip("/").rpartition("/")[2] for name in retried(url, ask))


def remove(url: str) -> None:
    """Remove an object."""

    def ask() -> None:
        fs, path = open_filesystem(url)
        fs.rm_file(path)

    retried(url, ask)


def _upload(path: Path, url: str, known: Mapping[str, Any]) -> dict[str, Any]:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    size = str(path.stat().st_size)
    facts = object_facts(url)
    if facts is None or facts["size"] != size or not _has(url, sha256, facts, known.get(path.name)):
        retried(url, lambda: _put(path, url))
        facts = object_facts(url)
        if facts is None or facts["size"] != size:
            raise UserError(f"{url}: is not there after its upload: run again")
    return {"sha256": sha256, "facts": facts}


def _has(url: str, sha256: str, facts: Mapping[str, str], note: Any) -> bool:
    if note and note["facts"] == facts:
        return bool(note["sha256"] == sha256)

    def read_back() -> str:
        fs, path = open_filesystem(url)
        digest = hashlib.sha256()
        with fs.open(path, "rb", block_size=RANGE_BYTES) as stream:
            while block := stream.read(RANGE_BYTES):
                digest.update(block)
        return digest.hexdigest()

    return retried(url, read_back) == sha256


def _put(local: Path, url: str) -> None:
    fs, path = open_filesystem(url)
    if url.startswith(ATOMIC):
        fs.put_file(str(local), path)
        return
    fs.put_file(str(local), f"{path}.uploading")
    fs.mv(f"{path}.uploading", path)


def _read_notes(notes: Path) -> dict[str, Any]:
    known = {}
    for line in notes.read_bytes().splitlines() if notes.exists() else ():
        try:
            note = json.loads(line)
            known[note["name"]] = note
        except ValueError:
            continue  # cut by a kill or a full disk
    return known
