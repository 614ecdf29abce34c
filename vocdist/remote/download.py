"""Bytes from behind a URL, in ranges, so that what was cut off goes on where it was."""

import hashlib
import os

from vocdist.remote.filesystem import open_filesystem
from vocdist.remote.retry import ShortError, retried

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
