"""Random access to the samples of one split: an offset table and `pread`, no tar walk, no unpickle.

A reader may be copied into loader processes by fork or pickle.
"""

import hashlib
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vocdist.errors import UserError
from vocdist.remote.cache import CacheRule
from vocdist.remote.location import Location, is_url
from vocdist.shards.columns import AnnotationList, Columns, columns_once, find_columns
from vocdist.shards.format import (
    Annotations,
    IndexEntry,
    Manifest,
    ShardRecord,
    parse_manifest,
    parse_record,
)
from vocdist.shards.storage import open_storage

# Changes with the arrays of `Columns` and what they mean: a file of another is not looked at.
COLUMNS_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredSample:
    """One sample as stored: encoded JPEG bytes and its annotations."""

    jpeg: bytes
    annotations: Annotations


class ShardReader:
    """A split as a sequence of samples, in shard order.

    Args:
        folder: A shard folder, or the URL of one, which is read through the cache.
        split: Name of a split in its manifest.
        limit: Use the first this many samples; None for all.
        cache: Where copies of remote shards are kept, and what is known of all samples; None: in
            the default place, without bound.

    Raises:
        UserError: No manifest, no such split, or a shard whose size or count is not the manifest's.
    """

    def __init__(
        self,
        folder: Location,
        split: str,
        limit: int | None = None,
        cache: CacheRule | None = None,
    ) -> None:
        """Check local shards' sizes against the manifest.

        Their offset tables are loaded, unless columns are there, which were made from these.
        """
        self.folder = folder
        self.split = split
        content, self._storage = open_storage(folder, cache)
        self.manifest: Manifest = parse_manifest(content, folder)
        self.manifest_sha256 = hashlib.sha256(content).hexdigest()
        if split not in self.manifest.splits:
            names = ", ".join(self.manifest.splits)
            raise UserError(f"{folder}: no split '{split}'; its manifest has {names}")
        shards = self.manifest.splits[split].shards
        for shard in shards:
            self._storage.check(shard)
        # Of all shards, as those that a limit leaves out are checked too.
        version = self._storage.version(shards)
        ends = np.cumsum([shard.samples for shard in shards], dtype=np.int64)
        self._length = min(int(ends[-1]) if len(ends) else 0, limit or sys.maxsize)
        starts = ends - [shard.samples for shard in shards]
        # Those that the limit leaves, all of them or in part.
        self._shards = [s for s, start in zip(shards, starts, strict=True) if start < self._length]
        self._starts: list[int] = starts[: len(self._shards)].tolist()
        self._columns_name = f"{split}-{self._length}-{version[:20]}-v{COLUMNS_VERSION}"
        self._columns: Columns | None = None
        self._annotations: AnnotationList | None = None
        self._looked = False
        if self._known_columns() is None:
            for shard in shards:
                self._storage.check_index(shard)

    def __len__(self) -> int:
        """Number of samples."""
        return self._length

    @property
    def shard_sizes(self) -> np.ndarray:
        """(shards,) int64: samples of each shard, as far as the limit lets them in."""
        return np.diff(self._starts, append=self._length)

    @property
    def shards(self) -> int:
        """Number of shards, as far as the limit lets them in."""
        return len(self._shards)

    @property
    def is_remote(self) -> bool:
        """Whether shards are read through the cache."""
        return is_url(self.folder)

    @property
    def remedy(self) -> str:
        """What to do where a sample is damaged."""
        if self.is_remote:
            return "drop the damaged copy with python scripts/cache.py verify"
        return f"look with python scripts/verify_shards.py {self.folder}, and make the shards again"

    def read(self, index: int) -> StoredSample:
        """Read one sample."""
        shard, entry = self._locate(index)
        # By itself: cut out of one read of both members, the image would be copied once more.
        jpeg = self._storage.read(shard, entry.jpg_offset, entry.jpg_size)
        return StoredSample(jpeg, self.read_annotations(index))

    def shard_of(self, index: int) -> int:
        """The number of the shard that holds a sample.

        Raises:
            IndexError: There is no such sample.
        """
        if not 0 <= index < self._length:
            raise IndexError(f"sample {index} of {self._length}")
        return bisect_right(self._starts, index) - 1

    def check_cache(self, shuffle_shards: int | None) -> None:
        """Refuse a cache that would be emptied and filled all the time.

        Two windows of `shuffle_shards` must have room, one in use and the next; None: all shards.

        Raises:
            UserError: They have not; the settings that would do are named.
        """
        bound = self._storage.max_bytes
        if bound is None:
            return
        sizes = sorted((shard.bytes for shard in self._shards), reverse=True)
        needed = sum(sizes if shuffle_shards is None else sizes[: 2 * shuffle_shards])
        if needed <= bound:
            return
        fitting = int(np.searchsorted(np.cumsum(sizes), bound, side="right")) // 2
        smaller = f", or data.shuffle_shards={fitting}" if fitting else ""
        what = f"{2 * shuffle_shards} of the" if shuffle_shards else f"all {len(sizes)}"
        raise UserError(
            f"data.cache_bytes={bound}: too small for {what} {self.split} shards of {self.folder} "
            f"at once, which data.shuffle_shards={shuffle_shards or 'null'} asks for: set "
            f"data.cache_bytes={needed} or more{smaller}"
        )

    def prefetch(self, number: int) -> None:
        """Have a shard at hand soon; it is by now, if it is on this machine's disk."""
        self._storage.prefetch(self._shards[number])

    def read_annotations(self, index: int) -> Annotations:
        """What is known of one sample; read unless the columns are there."""
        shard, entry = self._locate(index)
        if self._known_columns() is not None:
            return self.annotations[index]
        stored = self._storage.read(shard, entry.json_offset, entry.json_size)
        return self._parsed(stored, shard, index)

    @property
    def annotations(self) -> AnnotationList:
        """Every sample's annotations, each made when it is asked for.

        The first time on a machine all are read (some 30 µs a sample), by one process, and kept in
        the cache as columns. Of remote shards all are downloaded for it.
        """
        if self._annotations is None:
            self._annotations = AnnotationList(self._all_columns())
        return self._annotations

    @property
    def keys(self) -> list[str]:
        """Every sample's key."""
        columns = self._all_columns()
        return [columns.key(index) for index in range(len(self))]

    @property
    def box_counts(self) -> np.ndarray:
        """(N,) int64: boxes of each sample."""
        return np.diff(self._all_columns().box_starts)

    @property
    def image_sizes(self) -> np.ndarray:
        """(N, 2) int64 rows (height, width) of the stored images, pixels."""
        return self._all_columns().sizes

    @property
    def shard_samples(self) -> list[tuple[ShardRecord, int]]:
        """Each shard that is read, with the number of its samples that are: from its first on."""
        return list(zip(self._shards, self.shard_sizes.tolist(), strict=True))

    @property
    def labels(self) -> np.ndarray:
        """(N, classes) int8 multi-hot: which classes have a box in which image."""
        return self._all_columns().labels(len(self.manifest.classes))

    @property
    def class_images(self) -> np.ndarray:
        """(classes,) int64: images that hold each class; the manifest knows, of the whole split."""
        split = self.manifest.splits[self.split]
        if len(self) < split.samples:
            positives: np.ndarray = self.labels.sum(axis=0, dtype=np.int64)
            return positives
        counts = [split.class_images[name] for name in self.manifest.classes]
        return np.array(counts, dtype=np.int64)

    def _locate(self, index: int) -> tuple[ShardRecord, IndexEntry]:
        number = self.shard_of(index)
        shard = self._shards[number]
        columns = self._known_columns()
        if columns is not None:
            return shard, columns.entry(index)
        return shard, self._storage.entries(shard)[index - self._starts[number]]

    def _known_columns(self) -> Columns | None:
        """The columns, if they were made before this reader was opened, or by it."""
        if not self._looked:
            folder = self._storage.columns_folder(make=False)
            self._columns = find_columns(folder, self._columns_name) if folder else None
            self._looked = True
        return self._columns

    def _all_columns(self) -> Columns:
        """The columns, made if they are not there."""
        columns = self._known_columns()
        if columns is None:
            folder = self._storage.columns_folder(make=True)
            if folder is None:
                columns = self._made_columns()
            else:
                columns = columns_once(folder, self._columns_name, self._made_columns)
            self._columns = columns
            self._storage.forget_entries()
        return columns

    def _made_columns(self) -> Columns:
        return Columns.of(self._read_shards())

    def _read_shards(self) -> Iterator[tuple[Sequence[IndexEntry], list[Annotations]]]:
        """The index and the records of each shard, as far as the limit lets them in."""
        of_shards = self._storage.records(self._shards)
        for (shard, samples), start, records in zip(
            self.shard_samples, self._starts, of_shards, strict=True
        ):
            parsed = [self._parsed(r, shard, i) for i, r in enumerate(records[:samples], start)]
            yield self._storage.entries(shard)[:samples], parsed

    def _parsed(self, stored: bytes, shard: ShardRecord, index: int) -> Annotations:
        try:
            return parse_record(stored)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.folder}/{shard.name}: sample {index} of {self.split} has no record, for it "
                f"is damaged or the .idx file is another shard's ({type(error).__name__}): "
                f"{self.remedy}"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the columns behind when sent to another process, which maps the same file."""
        return self.__dict__ | {"_columns": None, "_annotations": None, "_looked": False}
