"""One verified copy of each remote file on a machine, the least recently used evicted first."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done, temporary_path
from vocdist.files.lock import InUse, locked
from vocdist.remote.location import join
from vocdist.remote.transfer import read_on

# Shards that were read, VOC trees that were converted, shards on their way to a URL, and what is
# known of the samples of local shards.
KINDS = ("shards", "sources", "staging", "columns")


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
                # A clearing that is killed now leaves an entry, which the next one clears.
                cleared = temporary_path(entry.folder)
                os.rename(entry.folder, cleared)
                shutil.rmtree(cleared)
                removed += entry.size
            else:
                kept.append(entry.folder)
    return removed, kept


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold off readers (`CachedFolder`) and conversions (`shards/writer_lock.py`), if none is."""
    with (
        locked(folder / IN_USE_NAME, wait=False, create=True) as readers,
        locked(folder / ".lock", wait=False) as conversion,
    ):
        yield readers is not None and (conversion is not None or not (folder / ".lock").exists())


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


CACHE_VARIABLE = "VOCDIST_CACHE"
ABOUT_NAME = "about.json"
# Locked by all who read from the folder, be it now or later.
IN_USE_NAME = ".in-use"
# Without a byte coming in anywhere in the cache.
ROOM_WAIT_S = 120.0


@dataclass(frozen=True, slots=True)
class CacheRule:
    """Where copies are kept, and how many bytes of shards; None: no bound."""

    root: Path
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a manifest states of a file."""

    name: str
    size: int
    sha256: str


def default_cache() -> Path:
    """`$VOCDIST_CACHE`, else `vocdist` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "vocdist"


def cache_path(root: Path, kind: str, url: str, version: str = "") -> Path:
    """Where what comes from a URL lies, if it is there."""
    key = hashlib.sha256(f"{url}\n{version}".encode()).hexdigest()[:20]
    return root / kind / key


def cache_folder(root: Path, kind: str, url: str, version: str = "") -> Path:
    """The folder for what comes from a URL; made, with a note in it that says what it is of."""
    folder = cache_path(root, kind, url, version)
    if not (folder / ABOUT_NAME).is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replaced_when_done(folder / ABOUT_NAME) as temporary:
                temporary.write_text(json.dumps({"url": url, "version": version}) + "\n")
        except OSError as error:
            raise _cannot_write(root, error) from None
    return folder


def folder_in_use(root: Path, kind: str, url: str, version: str = "") -> tuple[Path, InUse]:
    """A URL's folder, made where it is missing, and what keeps it from being cleared."""
    while True:
        folder = cache_folder(root, kind, url, version)
        try:
            return folder, InUse(folder / IN_USE_NAME)
        except FileNotFoundError:
            continue  # cleared in between
        except OSError as error:
            raise _cannot_write(root, error) from None


class CachedFolder:
    """The files of a remote folder as local ones; may be copied into other processes.

    Args:
        url: The folder's.
        version: Tells its contents from those that were there before: the manifest's hash.
        rule: Where copies go, and their bound.
    """

    def __init__(self, url: str, version: str, rule: CacheRule) -> None:
        """Make the folder of the copies, `folder`, and keep it from being cleared."""
        self.url = url
        self.rule = rule
        self.folder, self._in_use = folder_in_use(rule.root, "shards", url, version)

    @contextmanager
    def opened(self, file: RemoteFile) -> Iterator[int]:
        """A descriptor of the whole file, which stays in the cache until this is left.

        Raises:
            UserError: It cannot be downloaded, is not what the manifest states, or has no room.
        """
        final = self.folder / file.name
        while True:
            with locked(final, shared=True) as descriptor:
                if descriptor is not None and os.fstat(descriptor).st_size == file.size:
                    os.utime(descriptor)
                    yield descriptor
                    return
            with self._part(file, wait=True) as descriptor:
                if descriptor is not None:
                    self._fetch(file, descriptor)
                    # Read under the lock of the download: nobody can evict it in between.
                    yield descriptor
                    return

    def prefetch(self, file: RemoteFile) -> None:
        """Make sure that the file is there or on its way in some process."""
        final = self.folder / file.name
        if self._is_there(file):
            with suppress(FileNotFoundError):
                os.utime(final)
            return
        with self._part(file, wait=False) as descriptor:
            if descriptor is not None:
                self._fetch(file, descriptor)

    @contextmanager
    def _part(self, file: RemoteFile, *, wait: bool) -> Iterator[int | None]:
        """The locked part file, with room for the whole; None where there is none (any more)."""
        part = part_path(self.folder / file.name, file.size)
        with ExitStack() as stack:
            with self._errors_named():
                self._make_room(file, part)
                # Not made here: what became a whole file, and was evicted since, has no room any
                # more.
                descriptor = stack.enter_context(locked(part, wait=wait))
            # Outside, as what a reader raises is no fault of the cache.
            yield descriptor

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _cannot_write(self.rule.root, error) from None

    def _fetch(self, file: RemoteFile, descriptor: int) -> None:
        with self._errors_named():
            self._fetch_whole(file, descriptor)

    def _fetch_whole(self, file: RemoteFile, descriptor: int) -> None:
        url = join(self.url, file.name)
        final = self.folder / file.name
        part = part_path(final, file.size)
        # A part may be of an object that was replaced since: then all of it is fetched once more.
        for _ in range(2):
            if read_on(url, descriptor, file.size) == file.sha256:
                os.fsync(descriptor)
                # Who counts what is there would miss a file that changes its name meanwhile.
                with locked(self.rule.root / ".lock", create=True):
                    os.replace(part, final)
                return
            os.truncate(descriptor, 0)
        part.unlink()
        raise UserError(
            f"{url}: its bytes are not those that the manifest states: upload the shards again, "
            f"and check them with scripts/verify_shards.py {self.url}"
        )

    def _make_room(self, file: RemoteFile, part: Path) -> None:
        bound = self.rule.max_bytes
        shards = self.folder.parent
        began = time.time()
        while True:
            with locked(self.rule.root / ".lock", create=True):
                # In this order: the part becomes the whole by one rename.
                if part.exists() or self._is_there(file):
                    return
                if bound is None or make_room(shards, file.size, bound):
                    part.touch()
                    return
            # Whoever downloads will be done, and then what he holds can go.
            quiet = time.time() - max(began, last_growth(shards))
            if file.size > (bound or 0) or quiet > ROOM_WAIT_S:
                raise UserError(
                    f"{self.rule.root}: no room for {file.name} of {file.size:,} bytes, as "
                    f"data.cache_bytes={bound} and what is there is in use: set a larger one"
                )
            time.sleep(0.2)

    def _is_there(self, file: RemoteFile) -> bool:
        try:
            return (self.folder / file.name).stat().st_size == file.size
        except FileNotFoundError:
            return False


def _cannot_write(root: Path, error: OSError) -> UserError:
    return UserError(
        f"{root}: the cache cannot be written ({error.strerror or error}): free some space, or "
        f"choose another folder with data.cache_dir or {CACHE_VARIABLE}"
    )
