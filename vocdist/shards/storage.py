"""The files of a shard folder, here or behind a URL, as bytes by offset and tables of offsets.

Either kind may be copied into loader processes by fork or pickle.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.files.checked import stamp
from vocdist.remote.cache import (
    CachedFolder,
    CacheRule,
    RemoteFile,
    cache_folder,
    cache_path,
    default_cache,
)
from vocdist.remote.location import Location, is_url
from vocdist.shards.format import (
    MANIFEST_NAME,
    IndexEntry,
    ShardRecord,
    index_bytes,
    index_path,
    parse_manifest,
    read_index,
    read_manifest,
    scan_tar,
)

# Shards that are fetched at once where all of them are wanted.
FETCHES = 4


class ShardStorage(Protocol):
    """What a reader asks of the place where shards are."""

    @property
    def max_bytes(self) -> int | None:
        """The most that copies may take; None: no bound, or none are made."""

    def check(self, shard: ShardRecord) -> None:
        """Look at a shard before it is needed, where that costs nothing."""

    def check_index(self, shard: ShardRecord) -> None:
        """Look at a shard's index before it is needed, where it is here."""

    def columns_folder(self, *, make: bool) -> Path | None:
        """Where files of `columns.py` lie, made if asked for; None: nowhere."""

    def version(self, shards: Sequence[ShardRecord]) -> str:
        """What changes when the files of a manifest are replaced."""

    def entries(self, shard: ShardRecord) -> list[IndexEntry]:
        """Where the shard's samples lie in it."""

    def read(self, shard: ShardRecord, offset: int, size: int) -> bytes:
        """That many bytes of the tar."""

    def forget_entries(self) -> None:
        """Free the memory of the tables of offsets; they are read again when they are needed."""

    def records(self, shards: Sequence[ShardRecord]) -> Iterator[list[bytes]]:
        """The JSON member of each sample of each shard."""

    def prefetch(self, shard: ShardRecord) -> None:
        """Have the shard at hand soon."""


def open_storage(folder: Location, cache: CacheRule | None = None) -> tuple[bytes, ShardStorage]:
    """(the manifest as stored, the files beside it); copies and columns go into the `cache`.

    Raises:
        UserError: There is no manifest, or it cannot be read.
    """
    content = read_manifest(folder)
    if not is_url(folder):
        root = cache.root if cache else None
        if root is None:
            with suppress(RuntimeError):  # there is no home folder
                root = default_cache()
        return content, LocalShards(Path(folder), hashlib.sha256(content).hexdigest(), root)
    parse_manifest(content, folder)  # nothing is kept of a folder that is none
    return content, CachedShards(folder, content, cache or CacheRule(default_cache()))


class LocalShards:
    """Shards in a folder: one descriptor per process and shard, and `pread`."""

    def __init__(self, folder: Path, manifest_sha256: str, cache: Path | None) -> None:
        """Nothing is opened yet; columns go into the folder `cache`."""
        self.max_bytes = None
        self._folder = folder
        self._manifest_sha256 = manifest_sha256
        self._cache = cache
        self._entries: dict[str, list[IndexEntry]] = {}
        self._descriptors: dict[tuple[int, str], int] = {}

    def check(self, shard: ShardRecord) -> None:
        """Compare the size with the manifest.

        Raises:
            UserError: It is not as it states, or the shard is missing.
        """
        _check_size(self._folder / shard.name, shard.bytes)

    def check_index(self, shard: ShardRecord) -> None:
        """Read the index and compare it with the manifest.

        Raises:
            UserError: It does not fit, or is missing.
        """
        self.entries(shard)

    def columns_folder(self, *, make: bool) -> Path | None:
        """In the cache, by the folder's path: samples are at a place of the disk."""
        if self._cache is None:
            return None
        place = self._cache, "columns", os.path.realpath(self._folder), self._manifest_sha256
        if make:
            # A cache that cannot be written to costs time, and is no error for local shards.
            with suppress(UserError):
                return cache_folder(*place)
        return cache_path(*place)

    def version(self, shards: Sequence[ShardRecord]) -> str:
        """A hash of the size, time and inode of each shard and each index."""
        files = [self._folder / shard.name for shard in shards]
        stamps = []
        for path in (*files, *map(index_path, files)):
            try:
                stamps.append(stamp(path))
            except OSError:
                stamps.append("missing")
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()

    def entries(self, shard: ShardRecord) -> list[IndexEntry]:
        """From the index beside the shard, read once."""
        if shard.name not in self._entries:
            path = index_path(self._folder / shard.name)
            entries = read_index(path)
            _check_count(entries, shard, path)
            self._entries[shard.name] = entries
        return self._entries[shard.name]

    def forget_entries(self) -> None:
        """Those of all shards."""
        self._entries.clear()

    def read(self, shard: ShardRecord, offset: int, size: int) -> bytes:
        """One system call."""
        # Keyed by process: a descriptor inherited over fork would be closed twice.
        slot = os.getpid(), shard.name
        try:
            if slot not in self._descriptors:
                self._descriptors[slot] = os.open(self._folder / shard.name, os.O_RDONLY)
            data = os.pread(self._descriptors[slot], size, offset)
        except OSError as error:
            raise UserError(
                f"{self._folder / shard.name}: cannot be read while in use ({error.strerror}): put "
                f"it back, or make it again, and start again"
            ) from None
        if len(data) != size:
            raise UserError(f"{self._folder / shard.name}: cut short while in use: make it again")
        return data

    def records(self, shards: Sequence[ShardRecord]) -> Iterator[list[bytes]]:
        """One system call for each."""
        for shard in shards:
            entries = self.entries(shard)
            yield [self.read(shard, entry.json_offset, entry.json_size) for entry in entries]

    def prefetch(self, shard: ShardRecord) -> None:
        """It is here."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave descriptors and tables behind when sent to another process."""
        return self.__dict__ | {"_descriptors": {}, "_entries": {}}

    def __del__(self) -> None:
        """Close this process's descriptors."""
        for (process, _), descriptor in getattr(self, "_descriptors", {}).items():
            if process == os.getpid():
                os.close(descriptor)


class CachedShards:
    """Shards behind a URL, read through the cache.

    Beside a copy lie its index and its records, made from it; they stay when it is evicted, being
    small, so that labels and image sizes cost a download only once.
    """

    def __init__(self, url: str, manifest: bytes, rule: CacheRule) -> None:
        """Keep the manifest, by whose hash copies are told from older ones; no shard yet."""
        self.max_bytes = rule.max_bytes
        self._cached = CachedFolder(url, hashlib.sha256(manifest).hexdigest(), rule)
        copy = self._cached.folder / MANIFEST_NAME
        if not copy.is_file():
            with replaced_when_done(copy) as temporary:
                temporary.write_bytes(manifest)
        self._entries: dict[str, list[IndexEntry]] = {}

    def check(self, shard: ShardRecord) -> None:
        """Checked when it is downloaded."""

    def check_index(self, shard: ShardRecord) -> None:
        """Made from the whole shard."""

    def columns_folder(self, *, make: bool) -> Path | None:
        """Beside the copies."""
        return self._cached.folder

    def version(self, shards: Sequence[ShardRecord]) -> str:
        """The manifest has the hash of each shard, and the folder of the copies is its alone."""
        return ""

    def entries(self, shard: ShardRecord) -> list[IndexEntry]:
        """From the index beside the copy; without one the shard is fetched and scanned."""
        if shard.name not in self._entries:
            path = index_path(self._cached.folder / shard.name)
            if not path.is_file():
                with self._cached.opened(_file(shard)):
                    entries = scan_tar(self._cached.folder / shard.name)
                with replaced_when_done(path) as temporary:
                    temporary.write_bytes(index_bytes(entries))
            entries = read_index(path)
            _check_count(entries, shard, path)
            self._entries[shard.name] = entries
        return self._entries[shard.name]

    def read(self, shard: ShardRecord, offset: int, size: int) -> bytes:
        """Open, read and close, so that no copy is kept from eviction for longer than this."""
        with self._cached.opened(_file(shard)) as descriptor:
            return os.pread(descriptor, size, offset)

    def forget_entries(self) -> None:
        """Those of all shards."""
        self._entries.clear()

    def records(self, shards: Sequence[ShardRecord]) -> Iterator[list[bytes]]:
        """From the copies' own lists; shards without one are fetched, a few at a time."""
        with ThreadPoolExecutor(FETCHES) as pool:
            yield from pool.map(self._records_of, shards)

    def __getstate__(self) -> dict[str, Any]:
        """Leave tables behind when sent to another process."""
        return self.__dict__ | {"_entries": {}}

    def prefetch(self, shard: ShardRecord) -> None:
        """Download it unless it is here or on its way."""
        self._cached.prefetch(_file(shard))

    def _records_of(self, shard: ShardRecord) -> list[bytes]:
        path = (self._cached.folder / shard.name).with_suffix(".jsonl")
        if not path.is_file():
            # Looked up first: it may open the copy, which must not be done twice at once.
            entries = self.entries(shard)
            with self._cached.opened(_file(shard)) as descriptor:
                lines = [os.pread(descriptor, e.json_size, e.json_offset) for e in entries]
            with replaced_when_done(path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in lines))
        return path.read_bytes().splitlines()


def _file(shard: ShardRecord) -> RemoteFile:
    return RemoteFile(shard.name, shard.bytes, shard.sha256)


def _check_count(entries: Sequence[IndexEntry], shard: ShardRecord, index: Path) -> None:
    if len(entries) != shard.samples:
        raise UserError(
            f"{index}: {len(entries)} samples where the manifest states {shard.samples}: make the "
            f"shards again"
        )


def _check_size(shard: Path, expected: int) -> None:
    try:
        size = shard.stat().st_size
    except FileNotFoundError:
        raise UserError(
            f"{shard}: in the manifest but not on disk: make the shards again"
        ) from None
    if size != expected:
        raise UserError(
            f"{shard}: {size} bytes where the manifest states {expected}: make the shards again"
        )
