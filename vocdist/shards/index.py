"""The index beside each shard: byte offsets of its members, in DALI's public `.idx` form.

First line `v1.2 N`; then a line per sample: `ext offset size name` for each of its members, where
`offset` is that of the member's data in the tar.
"""

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import UserError

INDEX_VERSION = "v1.2"
# The members of a sample, in the order in which WebDataset's writer stores them.
EXTENSIONS = ("jpg", "json")


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Where one sample's members lie in the tar: byte offsets and sizes of JPEG and JSON."""

    key: str
    jpg_offset: int
    jpg_size: int
    json_offset: int
    json_size: int


def index_path(shard: Path) -> Path:
    """`train-000000.tar` -> `train-000000.idx`."""
    return shard.with_suffix(".idx")


def scan_tar(path: Path) -> list[IndexEntry]:
    """List a shard's samples by walking its tar headers.

    Raises:
        UserError: The members are not jpg, json, jpg, json, … of matching keys, or the tar is cut.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: not a whole tar file ({error}): make the shards again") from None
    entries = []
    for jpg, record in zip(members[0::2], members[1::2], strict=False):
        key, _, extension = jpg.name.rpartition(".")
        if (extension, record.name) != ("jpg", f"{key}.json"):
            raise UserError(f"{path}: {jpg.name} and {record.name} are not one sample's members")
        entries.append(IndexEntry(key, jpg.offset_data, jpg.size, record.offset_data, record.size))
    if len(members) % 2:
        raise UserError(f"{path}: {members[-1].name} has no partner: the tar is cut")
    return entries


def index_bytes(entries: Sequence[IndexEntry]) -> bytes:
    """Entries as the content of a DALI index file."""
    lines = [f"{INDEX_VERSION} {len(entries)}"]
    lines += [
        f"jpg {e.jpg_offset} {e.jpg_size} {e.key}.jpg "
        f"json {e.json_offset} {e.json_size} {e.key}.json"
        for e in entries
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def read_index(path: Path) -> list[IndexEntry]:
    """Read an index file of the form of `index_bytes`.

    Raises:
        UserError: It is missing, of another version, or not of our form.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
        version, count = header.split()
        if version != INDEX_VERSION or int(count) != len(lines):
            raise ValueError(f"header '{header}' over {len(lines)} lines")
        return [_parse_line(line) for line in lines]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no usable index ({error}): make the shards again") from None


def _parse_line(line: str) -> IndexEntry:
    jpg, jpg_offset, jpg_size, jpg_name, json, json_offset, json_size, _ = line.split(" ")
    if (jpg, json) != EXTENSIONS:
        raise ValueError(f"'{jpg}' and '{json}' where {EXTENSIONS} are expected")
    return IndexEntry(
        key=jpg_name.removesuffix(".jpg"),
        jpg_offset=int(jpg_offset),
        jpg_size=int(jpg_size),
        json_offset=int(json_offset),
        json_size=int(json_size),
    )
