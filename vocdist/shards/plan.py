"""Which sample goes into which shard: a pure function, so shards are independent units of work."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocdist.errors import UserError


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One image file and the record that is stored beside it.

    `record` is the JSON member of the sample: `key`, `filename`, `width`, `height` (stored pixels),
    `boxes` (N rows `[class_id, x, y, w, h]`, VOC's 1-based minima), `names`, `difficult`,
    `truncated` (N each).
    """

    key: str
    image: Path
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One tar file to write: its name and its samples, in order."""

    name: str
    samples: tuple[PlannedSample, ...]


def sample_key(stem: str) -> str:
    """A file stem as a WebDataset key, where a dot would begin the extension."""
    return stem.replace(".", "_")


def plan_shards(
    samples: Mapping[str, Sequence[PlannedSample]], samples_per_shard: int
) -> dict[str, list[ShardPlan]]:
    """Cut each split, in its order, into shards `<split>-%06d.tar`: split -> plans.

    Raises:
        UserError: Two samples of the data set share a key.
    """
    seen: dict[str, Path] = {}
    for sample in (sample for split in samples.values() for sample in split):
        if sample.key in seen:
            raise UserError(
                f"{sample.image} and {seen[sample.key]} would share the key '{sample.key}' "
                f"(dots in names become '_'): rename one of them"
            )
        seen[sample.key] = sample.image
    return {
        split: [
            ShardPlan(
                name=f"{split}-{start // samples_per_shard:06d}.tar",
                samples=tuple(members[start : start + samples_per_shard]),
            )
            for start in range(0, len(members), samples_per_shard)
        ]
        for split, members in samples.items()
    }


def plan_hash(plans: Mapping[str, Sequence[ShardPlan]]) -> str:
    """SHA-256 over shard names, records and image sizes on disk: same hash, same shards."""
    digest = hashlib.sha256()
    for plan in (plan for split in plans.values() for plan in split):
        digest.update(plan.name.encode())
        for sample in plan.samples:
            digest.update(record_bytes(sample.record))
            digest.update(str(sample.image.stat().st_size).encode())
    return digest.hexdigest()


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The JSON member as stored: UTF-8, compact, keys in the record's own order."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()
