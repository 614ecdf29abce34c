"""Writing one shard: to a temporary name, read back and checked, then renamed."""

import hashlib
from pathlib import Path

from webdataset import TarWriter

from vocdist.atomic import replaced_when_done
from vocdist.errors import UserError
from vocdist.shards.index import IndexEntry, index_path, scan_tar, write_index
from vocdist.shards.manifest import ShardRecord
from vocdist.shards.plan import ShardPlan, record_bytes


def write_shard(plan: ShardPlan, folder: Path) -> ShardRecord:
    """Write a planned tar and its index into `folder`; the JPEG bytes pass through untouched.

    The bytes depend on the plan alone: no clock, no user name, no worker. The tar appears under
    its final name only after it was read back and its members compared with the plan.

    Raises:
        UserError: An image vanished, or what was written is not what was planned.
    """
    final = folder / plan.name
    with replaced_when_done(final) as temporary:
        # mtime=0: webdataset's default stamps the time of writing into every member.
        with temporary.open("wb") as stream, TarWriter(stream, mtime=0, encoder=False) as tar:
            for sample in plan.samples:
                tar.write(
                    {
                        "__key__": sample.key,
                        "jpg": _image_bytes(sample.image),
                        "json": record_bytes(sample.record),
                    }
                )
        entries = scan_tar(temporary)
        _check_against_plan(entries, plan, final)
        digest = _sha256(temporary)
        size = temporary.stat().st_size
        # Before the tar: a tar under its final name always has its index.
        with replaced_when_done(index_path(final)) as index:
            write_index(entries, index)
    return ShardRecord(
        name=plan.name,
        samples=len(plan.samples),
        objects=sum(len(sample.record["boxes"]) for sample in plan.samples),
        bytes=size,
        sha256=digest,
    )


def _image_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); nothing was lost") from None


def _check_against_plan(entries: list[IndexEntry], plan: ShardPlan, final: Path) -> None:
    expected = [
        (sample.key, sample.image.stat().st_size, len(record_bytes(sample.record)))
        for sample in plan.samples
    ]
    found = [(entry.key, entry.jpg_size, entry.json_size) for entry in entries]
    if found != expected:
        raise UserError(f"{final}: reading it back gave other members than planned; run again")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
