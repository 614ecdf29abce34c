"""Reads the records of an offline W&B run: a LevelDB log of protobuf messages."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_FILE_HEADER, _BLOCK, _RECORD_HEADER = 7, 32768, 7


def read_records(path: Path) -> list[Any]:
    """All records of a `.wandb` file, in order."""
    data, position = path.read_bytes(), _FILE_HEADER
    assert data[:4] == b":W&B"
    records, message = [], b""
    while position + _RECORD_HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD_HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _RECORD_HEADER])
        position += _RECORD_HEADER
        message += data[position : position + length]
        position += length
        # 1: whole, 2: first, 3: middle, 4: last part of a message.
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            records.append(record)
            message = b""
    return records


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    """The logged rows of the offline runs below a run folder, in the order of their files."""
    rows = []
    for path in sorted(run_dir.rglob("*.wandb")):
        for record in read_records(path):
            if record.WhichOneof("record_type") == "history":
                items = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
                rows.append({key: json.loads(value) for key, value in items.items()})
    return rows
