"""What offline W&B runs hold: their files, read back after a kill.

W&B writes a run's rows in order but in blocks of 32 KiB, so what a killed run logged last is not in
its file, while `metrics.jsonl` has it. The form of the file is LevelDB's log of protobuf messages.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from wandb.proto import wandb_internal_pb2

_FILE_HEADER = b":W&B"
_FILE_HEADER_BYTES, _BLOCK, _PART_HEADER_BYTES = 7, 32768, 7
# A message is whole, or cut into a first, middle and last part at the ends of blocks.
_WHOLE, _LAST = 1, 4


class OfflineRun(NamedTuple):
    """One folder that `wandb sync` takes.

    Attributes:
        folder: `offline-run-<time>-<id>`.
        next_step: One above the last row's own step; 0 without rows.
    """

    folder: Path
    next_step: int


def offline_runs(run_dir: Path, run_id: str) -> list[OfflineRun]:
    """The offline folders of a W&B run that hold anything, oldest first."""
    found = []
    for path in sorted(run_dir.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb")):
        kinds, next_step = set(), 0
        for record in _records(path.read_bytes()):
            kinds.add(record.WhichOneof("record_type"))
            if record.HasField("history"):
                next_step = max(next_step, record.history.step.num + 1)
        if "run" in kinds:
            found.append(OfflineRun(path.parent, next_step))
    return found


def _records(data: bytes) -> Iterator[Any]:
    """All that was written whole, in order."""
    if data[: len(_FILE_HEADER)] != _FILE_HEADER:
        return
    position, message = _FILE_HEADER_BYTES, b""
    while position + _PART_HEADER_BYTES <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _PART_HEADER_BYTES:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += _PART_HEADER_BYTES + length
        if position > len(data):
            return
        message += data[position - length : position]
        if kind in (_WHOLE, _LAST):
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            try:
                record.ParseFromString(message)
            except DecodeError:
                return
            yield record
            message = b""
