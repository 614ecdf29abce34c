"""Which sample goes into which shard: a pure function, so shards are independent units of work."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xxhash import xxh3_128_digest

from vocdist.shards.images import Shrink

# Fits the name field of a tar header (100 bytes) together with an extension.
MAX_KEY_BYTES = 80


@dataclass(frozen=True, slots=True)
class PlannedSample:
    """One image file and the record that is stored beside it.

    Kept small, as a plan holds all of them: about a kilobyte each.

    Attributes:
        key: Of the sample in its shard.
        image_name: File name in the plan's `images` folder.
        image_hash: Of that file's content when it was inspected (see `content_hash`).
        record: The JSON member, as stored: `key`, `filename`, `width`, `height` (stored pixels),
            `boxes` (N rows `[class_id, x, y, w, h]`, VOC's 1-based minima), `names`, `difficult`,
            `truncated` (N each).
        class_ids: Of its boxes (N), so that nobody parses the record again to count.
    """

    key: str
    image_name: str
    image_hash: bytes
    record: bytes
    class_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """One tar file to write: its name and its samples, in order, read from the folder `images`.

    With `shrink`, larger images are made smaller on the way; otherwise bytes pass through.
    """

    name: str
    images: Path
    samples: tuple[PlannedSample, ...]
    shrink: Shrink | None = None


def content_hash(content: bytes) -> bytes:
    """16 bytes that tell whether a file is still the one that was inspected.

    Not proof against someone who forges files, and 20 times as fast as SHA-256.
    """
    return xxh3_128_digest(content)


def sample_key(stem: str) -> str:
    """A file stem as a key that every reader of tar shards understands.

    Dots would begin the extension, blanks end a name in DALI's index, slashes make folders, and
    bytes that are not UTF-8 have no place in JSON: all become `_`. A long stem is cut and ends in
    its hash. Two stems may get the same key: see `vocdist.shards.samples`.
    """
    key = "".join(c if c.isprintable() and c not in ". /\\" else "_" for c in stem)
    if len(key.encode()) > MAX_KEY_BYTES:
        digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        # "ignore" drops a character that the cut fell into.
        head = key.encode()[: MAX_KEY_BYTES - 17].decode("utf-8", "ignore")
        key = f"{head}_{digest}"
    return key


def plan_shards(
    samples: Mapping[str, Sequence[PlannedSample]],
    samples_per_shard: int,
    *,
    images: Path,
    shrink: Shrink | None = None,
) -> dict[str, list[ShardPlan]]:
    """Cut each split, in its order, into shards `<split>-%06d.tar`: split -> plans."""
    return {
        split: [
            ShardPlan(
                name=f"{split}-{start // samples_per_shard:06d}.tar",
                images=images,
                samples=tuple(members[start : start + samples_per_shard]),
                shrink=shrink,
            )
            for start in range(0, len(members), samples_per_shard)
        ]
        for split, members in samples.items()
    }


def plan_hash(plans: Mapping[str, Sequence[ShardPlan]]) -> str:
    """SHA-256 over shard names, records and image contents: same hash, same shards."""
    digest = hashlib.sha256()
    for plan in (plan for split in plans.values() for plan in split):
        digest.update(f"{plan.name} {len(plan.samples)} {plan.shrink}\n".encode())
        for sample in plan.samples:
            digest.update(sample.record + sample.image_hash)
    return digest.hexdigest()


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """The JSON member as stored: UTF-8, compact, keys in the record's own order."""
    return _ENCODER.encode(record).encode()
