"""Downloads and uploads that are tried again, resumed, and whole or not there."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from vocdist.errors import UserError
from vocdist.remote.location import join, open_filesystem

Result = TypeVar("Result")

# How long one request is tried again, seconds; reading on after a success starts afresh.
PATIENCE_VARIABLE, DEFAULT_PATIENCE_S = "VOCDIST_RETRY_SECONDS", 120.0
LONGEST_WAIT_S = 15.0

PASSING_STATUS = frozenset({408, 425, 429, *range(500, 600)})
# Drivers turn the server's words into these; a full or broken local disk is never tried here.
PASSING_ERRNO = frozenset(
    {errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.EPIPE, getattr(errno, "EREMOTEIO", errno.EIO)}
)
# Base classes of aiohttp, botocore, httpx and requests, none of which need be installed.
PASSING_TYPES = frozenset(
    {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteReadError"}
    | {"TransportError", "RequestException"}
)


class NotThereError(UserError):
    """The server says that there is no such object."""


class ShortError(Exception):
    """Fewer bytes came than were asked for."""


def retried(url: str, call: Callable[[], Result]) -> Result:
    """Call, and while the fault is one that may pass, again after a growing, random wait.

    Raises:
        NotThereError: There is no such object.
        UserError: It is refused, or it did not work for `VOCDIST_RETRY_SECONDS`.
    """
    # Imported here: most commands, and each worker of a conversion, do without.
    from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

    patience = _patience()
    retrying = Retrying(
        retry=retry_if_exception(is_passing),
        wait=wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S),
        stop=stop_before_delay(patience),
        reraise=True,
    )
    try:
        return retrying(call)
    except UserError:
        raise
    except Exception as error:  # each driver has its own types
        raise _as_user_error(url, error, patience) from error


def is_passing(error: BaseException) -> bool:
    """Whether the same request may work in a moment: timeouts, cut connections, 5xx, 429."""
    if isinstance(error, FileNotFoundError | PermissionError | UserError):
        return False
    status = _status(error)
    if status is not None:
        return status in PASSING_STATUS
    if isinstance(error, ShortError | TimeoutError | ConnectionError):
        return True
    if isinstance(error, OSError) and error.errno in PASSING_ERRNO:
        return True
    return any(base.__name__ in PASSING_TYPES for base in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp, gcsfs or huggingface_hub carries."""
    response = getattr(error, "response", None)
    for holder, name in ((error, "status"), (response, "status_code"), (error, "code")):
        status = getattr(holder, name, None)
        if isinstance(status, int) and status >= 100:
            return status
    return None


def _as_user_error(url: str, error: Exception, patience: float) -> UserError:
    status = _status(error)
    if isinstance(error, FileNotFoundError) or status == 404:
        return NotThereError(f"{url}: not there: check the URL")
    if status == 416:
        return UserError(f"{url}: is shorter than it was when it was made: upload it again")
    if isinstance(error, PermissionError) or status in (401, 403):
        return UserError(
            f"{url}: access is refused: check the credentials of this machine ({_text(error)})"
        )
    if isinstance(error, ShortError):
        return UserError(f"{url}: {error}: upload it again")
    if is_passing(error):
        return UserError(
            f"{url}: could not be reached for {patience:g} s ({_text(error)}): check the server "
            f"and the network and run again; {PATIENCE_VARIABLE}=… waits longer"
        )
    return UserError(f"{url}: {_text(error)}: check the URL and the credentials")


def _text(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(": ")


def _patience() -> float:
    text = os.environ.get(PATIENCE_VARIABLE, "")
    try:
        return float(text) if text else DEFAULT_PATIENCE_S
    except ValueError:
        raise UserError(f"{PATIENCE_VARIABLE}={text}: expected seconds, as 300") from None


# One request: few enough for a fast line, small enough to be lost and asked for again.
RANGE_BYTES = 8 * 2**20


def read_whole(url: str) -> bytes:
    """The content of a small object.

    Raises:
        NotThereError: There is none.
        UserError: It cannot be read.
    """

    def read() -> bytes:
        fs, path = open_filesystem(url)
        content: bytes = fs.cat_file(path)
        return content

    return retried(url, read)


def read_on(url: str, descriptor: int, size: int) -> str:
    """Append to an open file what is missing of an object of `size` bytes; hex SHA-256 of it all.

    Raises:
        UserError: It cannot be read, or is shorter than `size`.
        OSError: The local disk is full, for example.
    """
    digest, have = _hash_so_far(descriptor)
    os.lseek(descriptor, 0, os.SEEK_END)
    while have < size:
        data = _read_range(url, have, min(have + RANGE_BYTES, size), size)
        _write_all(descriptor, data)
        digest.update(data)
        have += len(data)
    return digest.hexdigest()


def _read_range(url: str, start: int, end: int, size: int) -> bytes:
    def read() -> bytes:
        fs, path = open_filesystem(url)
        data: bytes = fs.cat_file(path, start=start, end=end)
        if len(data) == end - start:
            return data
        if len(data) >= size:
            # A server without ranges sends all of it each time.
            return data[start:size]
        raise ShortError(f"sent {len(data):,} of the bytes {start:,} to {end:,} of {size:,}")

    return retried(url, read)


def _hash_so_far(descriptor: int) -> tuple["hashlib._Hash", int]:
    digest, have = hashlib.sha256(), 0
    while block := os.pread(descriptor, 2**20, have):
        digest.update(block)
        have += len(block)
    return digest, have


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


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
