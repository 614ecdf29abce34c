"""What a manifest says of a conversion: counts of each split, and what became of the source."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vocdist.shards.manifest import ImageRule, ShardRecord, SplitRecord
from vocdist.shards.plan import PlannedSample, ShardPlan
from vocdist.shards.samples import SplitSamples
from vocdist.voc.counts import count_split


def source_account(samples: SplitSamples) -> dict[str, Any]:
    """The manifest's fields about what became of the source."""
    shrink = samples.shrink
    rule = ImageRule(max_side=shrink.max_side, jpeg_quality=shrink.quality) if shrink else None
    return {
        "image_rule": rule or ImageRule(),
        "left_out": samples.left_out_counts(),
        "boxes_left_out": samples.box_counts(),
        "boxes_clipped": samples.clipped,
        "unknown_objects": dict(samples.unknown_objects),
    }


def split_record(
    samples: Sequence[PlannedSample],
    plans: Sequence[ShardPlan],
    records: Mapping[str, ShardRecord],
    classes: Sequence[str],
) -> SplitRecord:
    """A split's counts, and the records of its shards in their order."""
    counts = count_split(_boxes(samples), classes)
    return SplitRecord(
        samples=counts.samples,
        objects=sum(counts.objects.values()),
        class_images=counts.images,
        class_objects=counts.objects,
        shards=tuple(records[plan.name] for plan in plans),
    )


def _boxes(samples: Sequence[PlannedSample]) -> Iterator[np.ndarray]:
    for sample in samples:
        yield np.asarray(json.loads(sample.record)["boxes"], dtype=np.int32).reshape(-1, 5)
