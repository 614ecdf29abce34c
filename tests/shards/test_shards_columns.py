"""Columns of annotations: what the records say, made once, and never believed when damaged."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import weakref
from pathlib import Path

import numpy as np
import pytest

from vocdist.errors import UserError
from vocdist.remote.cache import CacheRule, clear_cache, list_cache
from vocdist.shards import columns as columns_module
from vocdist.shards import reader as reader_module
from vocdist.shards.columns import AnnotationList, Columns, columns_once, find_columns, read_columns
from vocdist.shards.format import Annotations, IndexEntry, parse_record
from vocdist.shards.reader import ShardReader


def record(key: str, boxes: int, side: int = 40) -> Annotations:
    rows = [[number % 3, number + 1, 2, 3, 4] for number in range(boxes)]
    flags = [number % 2 == 1 for number in range(boxes)]
    text = {"key": key, "width": side, "height": side + 1, "boxes": rows, "difficult": flags}
    return parse_record(json.dumps(text).encode())


RECORDS = [record("a", 2), record("ü\ud800", 0), record("", 1), record("last.one", 7)]
ENTRIES = [IndexEntry(one.key, 10 * i, 5, 10 * i + 5, 3 + i) for i, one in enumerate(RECORDS)]


def made() -> Columns:
    return Columns.of([(ENTRIES[:3], RECORDS[:3]), (ENTRIES[3:], RECORDS[3:])])


def assert_equal(ours: Columns, theirs: Columns) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def assert_same(one: Annotations, other: Annotations) -> None:
    assert (one.key, one.width, one.height) == (other.key, other.width, other.height)
    assert type(one.width) is type(one.height) is int
    for name in ("boxes", "difficult"):
        array, expected = getattr(one, name), getattr(other, name)
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.tolist() == expected.tolist()
        assert array.flags.writeable


@pytest.mark.parametrize("mapped_bytes", [0, 2**20])
def test_a_file_gives_the_records_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped_bytes: int
) -> None:
    monkeypatch.setattr(columns_module, "MAPPED_BYTES", mapped_bytes)
    read = columns_once(tmp_path, "train", made)
    assert_equal(read, made())
    found = find_columns(tmp_path, "train")
    assert found is not None
    for one, expected in zip(AnnotationList(found), RECORDS, strict=True):
        assert_same(one, expected)
    assert found.members.tolist() == [[0, 5, 5, 3], [10, 5, 15, 4], [20, 5, 25, 5], [30, 5, 35, 6]]
    assert found.labels(3).tolist() == [one.multi_hot(3).tolist() for one in RECORDS]
    with pytest.raises(ValueError, match=r"class ids 0\.\.2 do not fit 2 classes"):
        found.labels(2)
    # A plain numpy file, array by array.
    (path,) = tmp_path.glob("*.npy")
    with path.open("rb") as stream:
        assert np.array_equal(np.load(stream), found.members)
        assert np.array_equal(np.load(stream), found.sizes)


def test_nothing_is_a_file_too(tmp_path: Path) -> None:
    read = columns_once(tmp_path, "train", lambda: Columns.of([]))
    assert read.samples == len(AnnotationList(read)) == 0
    assert read.labels(4).shape == (0, 4)
    assert read.sizes.shape == (0, 2)


def test_a_list_of_them_is_as_a_list() -> None:
    records = AnnotationList(made())
    held = records[2]
    assert records[2] is held
    assert records[-2] is held
    assert [one.key for one in records[1:]] == [one.key for one in RECORDS[1:]]
    gone = weakref.ref(records[0])
    assert gone() is None
    records[-1] = held
    assert records[3] is held
    for index in (4, -5):
        with pytest.raises(IndexError):
            records[index]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [flipped, lambda c: c[:-1], lambda c: c[:100], lambda c: b"", lambda c: c + b"x"]
)
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    columns_once(tmp_path, "train", made)
    (path,) = tmp_path.glob("*.npy")
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert find_columns(tmp_path, "train") is None
    assert_equal(columns_once(tmp_path, "train", made), made())
    assert path.read_bytes() == good
    assert list(tmp_path.glob("*.npy")) == [path]


def test_what_is_whole_and_of_another_form_is_made_anew(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    name = columns_module.hashlib.sha256(content.getvalue()).hexdigest()
    other = tmp_path / f"train.{name}.npy"
    other.write_bytes(content.getvalue())
    assert find_columns(tmp_path, "train") is None
    assert_equal(columns_once(tmp_path, "train", made), made())
    assert not other.exists()


def make_and_count(folder: Path, barrier, queue) -> None:  # type: ignore[no-untyped-def]
    def counted() -> Columns:
        queue.put("made")
        return made()

    barrier.wait()
    queue.put(columns_once(folder, "train", counted).sizes.tolist())


def test_of_processes_that_begin_at_once_one_makes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        folder, barrier, queue = tmp_path / str(attempt), context.Barrier(3), context.Queue()
        processes = [
            context.Process(target=make_and_count, args=(folder, barrier, queue)) for _ in range(3)
        ]
        for process in processes:
            process.start()
        answers = [queue.get(timeout=60) for _ in range(4)]
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        assert answers.count("made") == 1
        assert all(a == made().sizes.tolist() for a in answers if a != "made")
        assert [p.suffix for p in folder.iterdir() if p.name != ".lock"] == [".npy"]


def test_without_locks_each_makes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("vocdist.files.lock.fcntl.flock", refused)
    assert_equal(columns_once(tmp_path, "train", made), made())
    first = list(tmp_path.glob("*.npy"))
    read_columns(columns_module._written(made(), tmp_path, "train"))
    assert list(tmp_path.glob("*.npy")) == first


def test_an_unwritable_folder_is_done_without(tmp_path: Path, small_shards: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert_equal(columns_once(file / "below", "train", made), made())
    reader = ShardReader(small_shards, "train", cache=CacheRule(file))
    assert len(reader.annotations) == len(reader.image_sizes) == 18
    assert reader.read(3).annotations is reader.annotations[3]


@pytest.fixture
def rule(tmp_path: Path) -> CacheRule:
    return CacheRule(tmp_path / "cache")


@pytest.fixture
def copy(small_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_shards, tmp_path / "copy")


def test_the_next_reader_parses_nothing(
    small_shards: Path, rule: CacheRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ShardReader(small_shards, "train", cache=rule)
    one_by_one = [first.read(index) for index in range(18)]
    listed = list(first.annotations)

    def refused(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(reader_module, "parse_record", refused)
    monkeypatch.setattr("vocdist.shards.storage.read_index", refused)
    second = ShardReader(small_shards, "train", cache=rule)
    sent = pickle.loads(pickle.dumps(second))
    for reader in (first, second, sent):
        for index, stored in enumerate(one_by_one):
            again = reader.read(index)
            assert again.jpeg == stored.jpeg
            for one in (again.annotations, reader.annotations[index], listed[index]):
                assert_same(one, stored.annotations)
        assert reader.keys == [one.key for one in listed]
        assert reader.box_counts.tolist() == [len(one.boxes) for one in listed]
        assert reader.image_sizes.tolist() == [[one.height, one.width] for one in listed]
        assert reader.labels.tolist() == [one.multi_hot(20).tolist() for one in listed]
    # Another limit, another file.
    monkeypatch.undo()
    assert ShardReader(small_shards, "train", 7, rule).keys == first.keys[:7]
    (entry,) = list_cache(rule.root)
    assert (entry.kind, entry.url) == ("columns", os.path.realpath(small_shards))
    clear_cache(rule.root)
    assert second.keys == first.keys
    assert sent.read(17).jpeg == one_by_one[17].jpeg


def test_columns_of_replaced_shards_are_not_theirs(copy: Path, rule: CacheRule) -> None:
    reader = ShardReader(copy, "train", cache=rule)
    key = reader.annotations[0].key
    shard = copy / "train-000000.tar"
    with tarfile.open(shard) as tar:
        assert key.encode() in tar.extractfile(f"{key}.json").read()  # type: ignore[union-attr]
    shard.write_bytes(shard.read_bytes().replace(b'{"key"', b'["key"', 1))
    again = ShardReader(copy, "train", cache=rule)
    with pytest.raises(UserError, match=r"train-000000\.tar: sample 0 of train has no record"):
        assert again.annotations
    assert len(list(rule.root.glob("columns/*/*.npy"))) == 1
    # An index that goes away is missed although its content is known.
    (copy / "train-000001.idx").unlink()
    with pytest.raises(UserError, match=r"train-000001\.idx: no usable index"):
        ShardReader(copy, "train", cache=rule)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"width": "9"}, "size '9' x 2"), ({"difficult": [True]}, r"0 boxes and \(1,\) flags")],
)
def test_a_record_that_fits_no_column_is_refused(change: dict[str, object], words: str) -> None:
    good = {"key": "a", "width": 1, "height": 2, "boxes": [], "difficult": []}
    assert parse_record(json.dumps(good).encode()).height == 2
    with pytest.raises(ValueError, match=words):
        parse_record(json.dumps(good | change).encode())
