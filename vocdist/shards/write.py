"""Write one shard: tar members, read back and renamed."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tarfile import BLOCKSIZE, NUL, RECORDSIZE, USTAR_FORMAT, TarInfo

from xxhash import xxh3_128

from vocdist.errors import UserError
from vocdist.files.atomic import TEMPORARY_SUFFIX
from vocdist.shards.index import IndexEntry, index_bytes, index_path
from vocdist.shards.manifest import ShardRecord
from vocdist.shards.plan import PlannedSample, ShardPlan, content_hash
from vocdist.shards.progress import add_progress, is_whole
from vocdist.shards.shrink import shrink_jpeg
from vocdist.shards.writer_lock import check_lock_token

# webdataset's defaults.
OWNER = "bigdata"
MODE = 0o444
# Where the fields that differ between members lie in a header.
NAME_BYTES, SIZE, CHECKSUM = 100, slice(124, 135), slice(148, 156)


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member's data; the name takes at most 100 bytes of UTF-8."""
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) > NAME_BYTES:
        raise ValueError(f"{name!r} does not fit into a tar header")
    header = bytearray(_blank_header())
    header[: len(encoded)] = encoded
    header[SIZE] = b"%011o" % size
    # By definition the sum is that of a header whose checksum is blanks.
    header[CHECKSUM] = b" " * 8
    header[CHECKSUM] = b"%06o\0 " % sum(header)
    return bytes(header)


@cache
def _blank_header() -> bytes:
    """The header of a nameless empty member: tarfile takes 50 µs for each, patching it takes 5."""
    info = TarInfo()
    info.mode = MODE
    info.uname = info.gname = OWNER
    return info.tobuf(USTAR_FORMAT)


def padding(size: int) -> bytes:
    """The zeros after `size` bytes of data: members begin at multiples of 512."""
    return NUL * (-size % BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """What closes a tar of `size` bytes: two blocks of zeros, and more up to a full record."""
    end = 2 * BLOCKSIZE
    return NUL * (end + -(size + end) % RECORDSIZE)


READ_BYTES = 1 << 20


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
    with tar.open("wb") as stream:
        for sample in plan.samples:
            jpeg = _image_bytes(plan, sample)
            jpg_header = member_header(f"{sample.key}.jpg", len(jpeg))
            json_header = member_header(f"{sample.key}.json", len(sample.record))
            front = b"".join([jpg_header, jpeg, padding(len(jpeg)), json_header])
            block = b"".join([front, sample.record, padding(len(sample.record))])
            entries.append(
                IndexEntry(
                    key=sample.key,
                    jpg_offset=offset + len(jpg_header),
                    jpg_size=len(jpeg),
                    json_offset=offset + len(front),
                    json_size=len(sample.record),
                )
            )
            stream.write(block)
            content.update(block)
            offset += len(block)
            objects += len(json.loads(sample.record)["boxes"])
        end = tar_end(offset)
        stream.write(end)
        content.update(end)
    index.write_bytes(index_bytes(entries))
    return _Written(objects, offset + len(end), content.digest())


def _read_back(tar: Path) -> tuple[bytes, str]:
    """The content's hash to compare with, and the hex SHA-256 that the manifest states."""
    content, sha256 = xxh3_128(), hashlib.sha256()
    with tar.open("rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            content.update(block)
            sha256.update(block)
    return content.digest(), sha256.hexdigest()


def _image_bytes(plan: ShardPlan, sample: PlannedSample) -> bytes:
    path = plan.images / sample.image_name
    try:
        encoded = path.read_bytes()
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
