"""Write one shard: tar members, read back and renamed; and keep which shards are written."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tarfile import BLOCKSIZE, NUL, RECORDSIZE, USTAR_FORMAT, TarInfo

from pydantic import ValidationError
from xxhash import xxh3_128

from vocdist.errors import UserError
from vocdist.files.atomic import TEMPORARY_SUFFIX, read_content, replaced_when_done
from vocdist.files.checked import file_sha256
from vocdist.shards.format import (
    PROGRESS_NAME,
    IndexEntry,
    ShardRecord,
    index_bytes,
    index_path,
    scan_tar,
)
from vocdist.shards.images import shrink_jpeg
from vocdist.shards.plan import PlannedSample, ShardPlan, content_hash
from vocdist.shards.writer_lock import check_lock_token

# webdataset's defaults.
OWNER = "bigdata"
MODE = 0o444
# Where the fields that differ between members lie in a header.
NAME_BYTES, SIZE, CHECKSUM = 100, slice(124, 135), slice(148, 156)
IO_BYTES = 1 << 20


def read_progress(folder: Path, plan_sha256: str) -> dict[str, ShardRecord] | None:
    """Shards that an interrupted run of this very plan finished, by name.

    None when there was no run, or one of another plan.
    """
    try:
        first, *lines = (folder / PROGRESS_NAME).read_bytes().splitlines()
        if json.loads(first) != {"plan_sha256": plan_sha256}:
            return None
    except (FileNotFoundError, ValueError):
        return None
    records = {}
    for line in lines:
        try:
            record = ShardRecord.model_validate_json(line)
        except ValidationError:
            continue  # cut by a kill or a full disk
        records[record.name] = record
    return records


def start_progress(folder: Path, plan_sha256: str, records: Mapping[str, ShardRecord]) -> None:
    """Begin the file anew, with the shards that are known to be whole."""
    lines = [json.dumps({"plan_sha256": plan_sha256})]
    lines += [record.model_dump_json() for record in records.values()]
    with replaced_when_done(folder / PROGRESS_NAME) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def add_progress(folder: Path, record: ShardRecord) -> None:
    """Note a shard that has its final name; in a folder that has a manifest there is no need."""
    try:
        # Appended by one call, so that lines of several workers do not mix.
        descriptor = os.open(folder / PROGRESS_NAME, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return
    try:
        os.write(descriptor, record.model_dump_json().encode() + b"\n")
    finally:
        os.close(descriptor)


def is_whole(folder: Path, record: ShardRecord) -> bool:
    """Whether the shard is on disk byte for byte as recorded, and its index is that of the tar."""
    shard = folder / record.name
    try:
        return (
            os.path.getsize(shard) == record.bytes
            and file_sha256(shard) == record.sha256
            and index_path(shard).read_bytes() == index_bytes(scan_tar(shard))
        )
    except FileNotFoundError:
        return False


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data; the name takes at most 100 bytes of UTF-8."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > NAME_BYTES:
        raise ValueError(f"{name!r} does not fit into a tar header")
    digits = b"%011o" % size
    blank, blank_sum = _blank_header()
    header = bytearray(blank)
    header[: len(encoded)] = encoded
    header[SIZE] = digits
    header[CHECKSUM] = b"%06o\0 " % (blank_sum + sum(encoded) + sum(digits))
    return bytes(header)


@cache
def _blank_header() -> tuple[bytes, int]:
    """A header without name, size and checksum, and the sum of its bytes.

    tarfile takes 22 µs for each header, patching this one takes 2, and a sample has two of them.
    """
    info = TarInfo()
    info.mode = MODE
    info.uname = info.gname = OWNER
    header = bytearray(info.tobuf(USTAR_FORMAT))
    header[SIZE] = bytes(11)
    # By definition the sum is that of a header whose checksum is blanks.
    header[CHECKSUM] = b" " * 8
    return bytes(header), sum(header)


def padding(size: int) -> bytes:
    """The zeros after `size` bytes of data: members begin at multiples of 512."""
    return NUL * (-size % BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """What closes a tar of `size` bytes: two blocks of zeros, and more up to a full record."""
    end = 2 * BLOCKSIZE
    return NUL * (end + -(size + end) % RECORDSIZE)


def write_shard(
    plan: ShardPlan, folder: Path, lock_token: str, done: ShardRecord | None = None
) -> tuple[ShardRecord, bool]:
    """Make sure that `folder` holds a planned tar and its index: (its record, was it written).

    The bytes depend on the plan alone: no clock, no user name, no worker. Both files get their
    final names only after the tar was read back. They reach the disk later, before the manifest
    does: until then a shard counts by its hash.

    Args:
        plan: What to write.
        folder: Where to.
        lock_token: Of the run that this is part of.
        done: What an earlier run recorded of this shard; if it is still so, nothing is written.

    Raises:
        UserError: An image vanished or changed, or what was read back is not what was written.
        OSError: The disk is full, for example.
    """
    if done and is_whole(folder, done):
        return done, False
    check_lock_token(folder, lock_token)
    final = folder / plan.name
    token = lock_token.rpartition(":")[2]
    tar, index = (
        path.with_name(f".{path.name}.{token}{TEMPORARY_SUFFIX}")
        for path in (final, index_path(final))
    )
    try:
        written = _write(plan, tar, index)
        content, sha256 = _read_back(tar)
        if content != written.content:
            raise UserError(f"{final}: reading it back gave other bytes than written: run again")
        record = ShardRecord(
            name=plan.name,
            samples=len(plan.samples),
            objects=written.objects,
            bytes=written.size,
            sha256=sha256,
        )
        check_lock_token(folder, lock_token)
        os.replace(index, index_path(final))
        os.replace(tar, final)
        add_progress(folder, record)
    finally:
        tar.unlink(missing_ok=True)
        index.unlink(missing_ok=True)
    return record, True


@dataclass(frozen=True, slots=True)
class _Written:
    """What went into a tar: its boxes, its size in bytes, and a hash of its content."""

    objects: int
    size: int
    content: bytes


def _write(plan: ShardPlan, tar: Path, index: Path) -> _Written:
    content = xxh3_128()
    entries: list[IndexEntry] = []
    offset = objects = 0
    # Large writes take the kernel less time for each byte.
    with tar.open("wb", buffering=IO_BYTES) as stream:
        for sample in plan.samples:
            jpeg, record = _image_bytes(plan, sample), sample.record
            jpg_header = member_header(f"{sample.key}.jpg", len(jpeg))
            json_header = member_header(f"{sample.key}.json", len(record))
            between = padding(len(jpeg)) + json_header
            entry = IndexEntry(
                key=sample.key,
                jpg_offset=offset + len(jpg_header),
                jpg_size=len(jpeg),
                json_offset=offset + len(jpg_header) + len(jpeg) + len(between),
                json_size=len(record),
            )
            entries.append(entry)
            # One by one: joined, each image would be copied once more.
            for part in (jpg_header, jpeg, between + record + padding(len(record))):
                stream.write(part)
                content.update(part)
                offset += len(part)
            objects += len(sample.class_ids)
        end = tar_end(offset)
        stream.write(end)
        content.update(end)
    index.write_bytes(index_bytes(entries))
    return _Written(objects, offset + len(end), content.digest())


def _read_back(tar: Path) -> tuple[bytes, str]:
    """The content's hash to compare with, and the hex SHA-256 that the manifest states."""
    content, sha256 = xxh3_128(), hashlib.sha256()
    with tar.open("rb", buffering=0) as stream:
        while block := stream.read(IO_BYTES):
            content.update(block)
            sha256.update(block)
    return content.digest(), sha256.hexdigest()


def _image_bytes(plan: ShardPlan, sample: PlannedSample) -> bytes:
    path = f"{plan.images}/{sample.image_name}"
    try:
        encoded = read_content(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read any more ({error.strerror}): put it back or take out its "
            f"annotation, and run again"
        ) from None
    if content_hash(encoded) != sample.image_hash:
        raise UserError(f"{path}: changed while the data set was converted: run again")
    if plan.shrink is None:
        return encoded
    record = json.loads(sample.record)
    return shrink_jpeg(encoded, (record["width"], record["height"]), plan.shrink.quality)
