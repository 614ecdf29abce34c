"""What is known of a split's samples, as columns: one file that all processes of a machine map.

The file holds the arrays of `Columns` in that order, one `.npy` behind the other, so that
`numpy.load` reads one after the other from the open file. Its name is `NAME.SHA256.npy` with the
hash of its content: one that was cut or changed does not fit its name, and is made anew.
"""

import glob
import hashlib
import io
import mmap
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, Self, overload
from weakref import WeakValueDictionary

import numpy as np

from vocdist.files.atomic import remove_temporaries, replaced_when_done
from vocdist.files.checked import sha256_once
from vocdist.files.lock import locked
from vocdist.shards.format import Annotations, IndexEntry

SUFFIX = ".npy"
# A map holds a descriptor, and its pages are the machine's only; smaller files are not worth it.
MAPPED_BYTES = 2**20


class Columns(NamedTuple):
    """N samples with B boxes.

    The arrays stand in the order of their item sizes, so that each is aligned in the file.

    Attributes:
        members: (N, 4) int64 bytes in the shard: offset and size of the JPEG, then of the JSON.
        sizes: (N, 2) int64 rows (height, width) of the stored images, pixels.
        box_starts: (N + 1,) int64: the boxes of sample i are `box_starts[i]` to those of i + 1.
        key_starts: (N + 1,) int64, in bytes, as `box_starts`.
        boxes: (B, 5) int32 rows of `Annotations.boxes`.
        difficult: (B,) bool.
        keys: (bytes,) uint8: UTF-8 of the keys.
    """

    members: np.ndarray
    sizes: np.ndarray
    box_starts: np.ndarray
    key_starts: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray
    keys: np.ndarray

    @classmethod
    def of(cls, shards: Iterable[tuple[Sequence[IndexEntry], Sequence[Annotations]]]) -> Self:
        """The samples of shards; one shard at a time is held as objects."""
        parts = [_of_shard(entries, annotations) for entries, annotations in shards]
        parts.append(_of_shard([], []))
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        members, sizes, box_counts, key_counts, boxes, difficult, keys = joined
        return cls(members, sizes, _starts(box_counts), _starts(key_counts), boxes, difficult, keys)

    @property
    def samples(self) -> int:
        """N."""
        return len(self.sizes)

    def annotations(self, index: int) -> Annotations:
        """The record of one sample, its arrays copied: they may be written to."""
        first, stop = self.box_starts[index : index + 2].tolist()
        height, width = self.sizes[index].tolist()
        return Annotations(
            key=self.key(index),
            width=width,
            height=height,
            boxes=self.boxes[first:stop].copy(),
            difficult=self.difficult[first:stop].copy(),
        )

    def key(self, index: int) -> str:
        """The key of one sample."""
        first, stop = self.key_starts[index : index + 2].tolist()
        return self.keys[first:stop].tobytes().decode("utf-8", "surrogatepass")

    def entry(self, index: int) -> IndexEntry:
        """Where one sample lies in its shard."""
        return IndexEntry(self.key(index), *self.members[index].tolist())

    def labels(self, classes: int) -> np.ndarray:
        """(N, classes) int8 multi-hot.

        Raises:
            ValueError: A class id lies outside `range(classes)`.
        """
        ids = self.boxes[:, 0]
        wrong = np.flatnonzero((ids < 0) | (ids >= classes))
        if len(wrong):
            sample = int(np.searchsorted(self.box_starts, wrong[0], side="right")) - 1
            self.annotations(sample).multi_hot(classes)
        labels = np.zeros((self.samples, classes), dtype=np.int8)
        labels[np.repeat(np.arange(self.samples), np.diff(self.box_starts)), ids] = 1
        return labels


class AnnotationList(Sequence[Annotations]):
    """Columns as a list of records, each made when it is asked for.

    As with a list, a sample is one object for as long as anybody has it, and another may be put in
    its place; that one is seen by this process, and by nothing that reads whole columns.
    """

    def __init__(self, columns: Columns) -> None:
        """Nothing is made yet."""
        self._columns = columns
        self._made: WeakValueDictionary[int, Annotations] = WeakValueDictionary()
        self._put: dict[int, Annotations] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return self._columns.samples

    @overload
    def __getitem__(self, index: int) -> Annotations: ...

    @overload
    def __getitem__(self, index: slice) -> list[Annotations]: ...

    def __getitem__(self, index: int | slice) -> Annotations | list[Annotations]:
        """A record, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = self._place(index)
        found = self._put.get(index) or self._made.get(index)
        if found is None:
            found = self._made[index] = self._columns.annotations(index)
        return found

    def __setitem__(self, index: int, annotations: Annotations) -> None:
        """Put another record in a sample's place."""
        self._put[self._place(index)] = annotations

    def _place(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return int(index) % len(self)


def find_columns(folder: Path, name: str) -> Columns | None:
    """The columns of that name in a folder; None: there is no file, or none that is whole.

    The processes of one launcher hash a file once (see `sha256_once`).
    """
    for path in _files(folder, name):
        with suppress(OSError, ValueError):
            if sha256_once(path) == path.name.split(".")[-2]:
                return read_columns(path)
    return None


def columns_once(folder: Path, name: str, make: Callable[[], Columns]) -> Columns:
    """The columns of that name, made if they are not there, by one process while others wait.

    Where the folder cannot be written to, this process keeps what it has made in its memory.
    """
    with ExitStack() as stack:
        # Without locks on a file system several processes make the same file of the same name.
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / ".lock", create=True))
        found = find_columns(folder, name)
        if found is not None:
            return found
        made = make()
        with suppress(OSError):
            return read_columns(_written(made, folder, name))
        return made


def read_columns(path: Path) -> Columns:
    """Map a file, which must be whole: nothing but its form is checked.

    Files are replaced and never written to, so that a map stays what it was.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not of our form.
    """
    content: bytes | mmap.mmap
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if size < MAPPED_BYTES:
            content = stream.read()
        else:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        stream.seek(0)
        arrays, offset = [], 0
        for _ in Columns._fields:
            stream.seek(offset)
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"{path}: an array of another version")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
            flat = np.frombuffer(content, dtype, int(np.prod(shape)), stream.tell())
            arrays.append(flat.reshape(shape))
            offset = stream.tell() + flat.nbytes
    return Columns(*arrays)


def _written(columns: Columns, folder: Path, name: str) -> Path:
    pieces = []
    for array in columns:
        header = io.BytesIO()
        described = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(header, described)
        pieces += [header.getvalue(), array.tobytes()]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    path = folder / f"{name}.{digest.hexdigest()}{SUFFIX}"
    remove_temporaries(folder)
    with replaced_when_done(path) as temporary, temporary.open("wb") as stream:
        stream.writelines(pieces)
    for other in _files(folder, name):
        if other != path:  # damaged
            other.unlink(missing_ok=True)
    return path


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{glob.escape(name)}.*{SUFFIX}"))


def _of_shard(
    entries: Sequence[IndexEntry], annotations: Sequence[Annotations]
) -> list[np.ndarray]:
    """The columns of one shard, with counts in the place of starts."""
    keys = [one.key.encode("utf-8", "surrogatepass") for one in annotations]
    members = [(e.jpg_offset, e.jpg_size, e.json_offset, e.json_size) for e in entries]
    return [
        np.array(members, dtype=np.int64).reshape(-1, 4),
        np.array([(one.height, one.width) for one in annotations], dtype=np.int64).reshape(-1, 2),
        np.array([len(one.boxes) for one in annotations], dtype=np.int64),
        np.array([len(key) for key in keys], dtype=np.int64),
        np.concatenate([np.zeros((0, 5), np.int32), *(one.boxes for one in annotations)]),
        np.concatenate([np.zeros(0, bool), *(one.difficult for one in annotations)]),
        np.frombuffer(b"".join(keys), np.uint8),
    ]


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])
