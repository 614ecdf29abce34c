"""Check shards against their manifest, here or in the cache of remote files."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.files.atomic import TEMPORARY_SUFFIX
from vocdist.files.checked import file_sha256
from vocdist.remote.cache import evict, list_cache
from vocdist.remote.location import Location, is_url, join
from vocdist.remote.transfer import NotThereError, list_names, object_facts, read_on, read_whole
from vocdist.shards.engine import run_tasks
from vocdist.shards.format import (
    INFO_NAME,
    MANIFEST_NAME,
    IndexEntry,
    Manifest,
    ShardRecord,
    SplitRecord,
    index_bytes,
    index_path,
    load_manifest,
    read_index,
    scan_tar,
)
from vocdist.shards.images import BadImage, checked_size
from vocdist.shards.rejections import REJECTED_NAME
from vocdist.shards.writer_lock import LOCK_NAME
from vocdist.voc.classes import normalise_name

PER_BOX = ("boxes", "names", "difficult", "truncated")


def member_problems(tar: BinaryIO, entry: IndexEntry, classes: Sequence[str]) -> Iterator[str]:
    """Lines `member: what is wrong` for the sample that an index entry points at."""
    try:
        size = checked_size(_read(tar, entry.jpg_offset, entry.jpg_size))
    except BadImage as bad:
        yield f"{entry.key}.jpg: {bad.detail}"
        size = None
    record = _record(tar, entry)
    if record is None:
        yield f"{entry.key}.json: not a record of vocdist"
        return
    if record["key"] != entry.key:
        yield f"{entry.key}.json: it is the record of {record['key']}"
    stated = (record["width"], record["height"])
    if size and stated != size:
        yield f"{entry.key}.json: states (width, height) {stated}, the image has {size}"
    for number, (row, name) in enumerate(zip(record["boxes"], record["names"], strict=True), 1):
        class_id, x, y, w, h = row
        if not 0 <= class_id < len(classes) or normalise_name(classes[class_id]) != name:
            yield f"{entry.key}.json: box {number} is of class {class_id}, '{name}'"
        if x < 0 or y < 0 or w <= 0 or h <= 0 or x + w > stated[0] or y + h > stated[1]:
            yield f"{entry.key}.json: box {number} {row} is not inside the image"


def class_counts(tar: BinaryIO, entry: IndexEntry, num_classes: int) -> np.ndarray:
    """(num_classes,) int64: boxes of each class; boxes of no class do not count."""
    record = _record(tar, entry)
    ids = [row[0] for row in record["boxes"]] if record else []
    known = [i for i in ids if 0 <= i < num_classes]
    return np.bincount(np.asarray(known, dtype=np.int64), minlength=num_classes)


def _record(tar: BinaryIO, entry: IndexEntry) -> dict[str, Any] | None:
    try:
        record = json.loads(_read(tar, entry.json_offset, entry.json_size))
        lengths = {len(record[name]) for name in PER_BOX}
        whole = len(lengths) == 1 and all(len(row) == 5 for row in record["boxes"])
        numbers = [record["width"], record["height"], *(v for r in record["boxes"] for v in r)]
        fits = whole and "key" in record and all(type(number) is int for number in numbers)
        return record if fits else None
    except (ValueError, KeyError, TypeError):
        return None


def _read(tar: BinaryIO, offset: int, size: int) -> bytes:
    tar.seek(offset)
    return tar.read(size)


BESIDE_SHARDS = frozenset({MANIFEST_NAME, INFO_NAME, REJECTED_NAME, LOCK_NAME})
# Anyone may put these beside the shards.
DOCUMENTS = (".html", ".png", ".jpg", ".md", ".txt")


@dataclass(frozen=True, slots=True)
class CheckedShard:
    """What was found in one shard file.

    Attributes:
        name: The file's.
        problems: Lines `file: what is wrong`.
        sha256: Of the tar as it is; None when there is none.
        class_images: (C,) samples that hold the class; None when the content was not looked at.
        class_objects: (C,) boxes of the class; likewise.
    """

    name: str
    problems: tuple[str, ...]
    sha256: str | None
    class_images: np.ndarray | None = None
    class_objects: np.ndarray | None = None


def verify_shards(
    folder: Location, *, fast: bool = False, workers: int = 1, engine: str = "local"
) -> list[str]:
    """Compare a shard folder with its manifest: a line per problem, none when all is well.

    Args:
        folder: With a manifest; of one behind a URL, each shard is downloaded for it, past the
            cache.
        fast: Check hashes and counts only; otherwise also that every JPEG decodes, that records
            fit their images and classes, and that boxes are inside.
        workers: Processes.
        engine: See `ShardsConfig`.
    """
    try:
        manifest = load_manifest(folder)
    except UserError as error:
        return [str(error)]
    records = [shard for split in manifest.splits.values() for shard in split.shards]
    remote = is_url(folder)
    names = list_names(str(folder)) if remote else sorted(os.listdir(folder))
    problems = [*_manifest_problems(manifest), *_stray_files(names, records)]
    tasks = [(folder, record, manifest.classes, fast) for record in records]
    checked = {}
    check = check_remote_shard if remote else check_shard
    results = run_tasks(check, tasks, workers=min(workers, len(tasks) or 1), engine=engine)
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=sum(r.samples for r in records), unit="img", disable=None) as bar:
        for shard, record in zip(results, records, strict=True):
            checked[shard.name] = shard
            problems += [*shard.problems, *_hash_problems(shard, record, records)]
            bar.update(record.samples)
    if records and all(checked[r.name].sha256 != r.sha256 for r in records):
        problems.insert(
            0, f"{MANIFEST_NAME}: not one shard is as it states: it is of another data set"
        )
    for name, split in manifest.splits.items():
        # Where a shard is not the one that was counted, that has been said.
        if all(checked[shard.name].sha256 == shard.sha256 for shard in split.shards):
            shards = [checked[shard.name] for shard in split.shards]
            problems += _count_problems(name, split, shards, manifest)
    return problems


def check_remote_shard(
    url: str, record: ShardRecord, classes: Sequence[str], fast: bool
) -> CheckedShard:
    """Download one tar and its index, and look at them; a unit of work for a worker process."""
    with TemporaryDirectory(prefix="vocdist-verify-") as temporary:
        folder = Path(temporary)
        index = index_path(folder / record.name)
        with suppress(NotThereError):
            index.write_bytes(read_whole(join(url, index.name)))
        facts = object_facts(join(url, record.name))
        if facts is not None:
            # Some web servers do not say how long a file is.
            size = int(facts["size"]) if facts["size"].isdecimal() else record.bytes
            with (folder / record.name).open("w+b") as stream:
                read_on(join(url, record.name), stream.fileno(), size)
        return check_shard(folder, record, classes, fast)


def check_shard(
    folder: Path, record: ShardRecord, classes: Sequence[str], fast: bool
) -> CheckedShard:
    """Look at one tar and its index; a unit of work for a worker process."""
    path = folder / record.name
    try:
        digest = file_sha256(path)
    except OSError as error:
        word = "missing" if isinstance(error, FileNotFoundError) else error.strerror
        return CheckedShard(record.name, (f"{record.name}: {word}",), None)
    size = os.path.getsize(path)
    problems = []
    if size != record.bytes:
        word = "cut" if size < record.bytes else "too long"
        problems.append(f"{record.name}: {word}: {size:,} bytes of {record.bytes:,}")
    try:
        entries = scan_tar(path)
    except UserError as error:
        return CheckedShard(record.name, (*problems, _local(error, folder)), digest)
    if len(entries) != record.samples:
        problems.append(f"{record.name}: {len(entries):,} samples of {record.samples:,}")
    problems += _index_problems(folder, record.name, index_bytes(entries))
    if fast:
        return CheckedShard(record.name, tuple(problems), digest)
    images = np.zeros(len(classes), dtype=np.int64)
    objects = np.zeros(len(classes), dtype=np.int64)
    with path.open("rb") as tar:
        for entry in entries:
            problems += [f"{record.name}: {p}" for p in member_problems(tar, entry, classes)]
            counted = class_counts(tar, entry, len(classes))
            images += counted > 0
            objects += counted
    if objects.sum() != record.objects:
        problems.append(f"{record.name}: {objects.sum():,} boxes of {record.objects:,}")
    return CheckedShard(record.name, tuple(problems), digest, images, objects)


def _local(error: UserError, folder: Path) -> str:
    return str(error).replace(f"{folder}/", "")


def _index_problems(folder: Path, shard: str, expected: bytes) -> Iterator[str]:
    path = index_path(folder / shard)
    try:
        if path.read_bytes() != expected:
            read_index(path)
            yield f"{path.name}: its offsets are not those of {shard}"
    except FileNotFoundError:
        yield f"{path.name}: missing"
    except UserError as error:
        yield _local(error, folder)


def _hash_problems(
    shard: CheckedShard, record: ShardRecord, records: Sequence[ShardRecord]
) -> Iterator[str]:
    if shard.sha256 in (None, record.sha256):
        return
    owner = next((other.name for other in records if other.sha256 == shard.sha256), None)
    what = f"it holds the bytes of {owner}" if owner else "its bytes are not those it was made of"
    yield f"{shard.name}: {what} (SHA-256 {shard.sha256})"


def _stray_files(names: Sequence[str], records: Sequence[ShardRecord]) -> Iterator[str]:
    tars = {record.name for record in records}
    known = BESIDE_SHARDS | tars | {index_path(Path(name)).name for name in tars}
    for name in names:
        if name.endswith(TEMPORARY_SUFFIX) or not (
            name in known or name.startswith(".") or name.endswith(DOCUMENTS)
        ):
            yield f"{name}: stray: the manifest does not know it"


def _manifest_problems(manifest: Manifest) -> Iterator[str]:
    """Is the manifest at one with itself?"""
    for name, split in manifest.splits.items():
        for what in ("samples", "objects"):
            total = sum(getattr(shard, what) for shard in split.shards)
            if total != getattr(split, what):
                yield (
                    f"{MANIFEST_NAME}: {name} has {getattr(split, what):,} {what}, its shards "
                    f"{total:,}"
                )
        if sum(split.class_objects.values()) != split.objects:
            yield f"{MANIFEST_NAME}: the class counts of {name} do not add up to its objects"
        if not tuple(split.class_images) == tuple(split.class_objects) == manifest.classes:
            yield f"{MANIFEST_NAME}: the class counts of {name} are of other classes"


def _count_problems(
    name: str, split: SplitRecord, shards: Sequence[CheckedShard], manifest: Manifest
) -> Iterator[str]:
    """Class counts of a split whose shards were all looked into."""
    for what in ("class_images", "class_objects"):
        counted = [getattr(shard, what) for shard in shards]
        if any(counts is None for counts in counted):
            continue
        total = np.sum(counted, axis=0, dtype=np.int64, initial=0).reshape(-1)
        stated = getattr(split, what)
        for class_name, found in zip(manifest.classes, total.tolist(), strict=False):
            if stated.get(class_name) != found:
                yield (
                    f"{MANIFEST_NAME}: {what} of {class_name} in {name} is "
                    f"{stated.get(class_name)}, its shards hold {found}"
                )


def drop_damaged(root: Path) -> Iterator[tuple[Path, bool]]:
    """Hash every whole shard in the cache: (its path, whether it was right).

    A damaged one is fetched again when it is needed, as is one that is in use now: its readers
    keep what they have open.
    """
    for entry in list_cache(root):
        if entry.kind != "shards" or not (entry.folder / MANIFEST_NAME).is_file():
            continue
        manifest = load_manifest(entry.folder)
        for shard in (shard for split in manifest.splits.values() for shard in split.shards):
            path = entry.folder / shard.name
            if path.is_file():
                right = file_sha256(path) == shard.sha256
                if not right and not evict(path):
                    path.unlink(missing_ok=True)
                yield path, right
