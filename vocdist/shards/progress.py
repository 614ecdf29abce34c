"""The record of an unfinished conversion: which shards were written, and their hashes.

A line per shard in `.progress.jsonl`, which is removed once there is a manifest. Each worker adds
the line of a shard right after the shard has its final name; a shard without one is made again.
Nothing is taken on trust: a line counts when the shard has its hash.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from vocdist.files.atomic import replaced_when_done
from vocdist.files.checked import file_sha256
from vocdist.shards.index import index_bytes, index_path, scan_tar
from vocdist.shards.manifest import ShardRecord

PROGRESS_NAME = ".progress.jsonl"


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
