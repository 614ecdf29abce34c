"""The conversion: samples -> plan -> shards -> manifest, each shard an independent unit of work."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from vocdist.atomic import remove_temporaries
from vocdist.errors import UserError
from vocdist.shards.index import index_path
from vocdist.shards.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardRecord,
    SplitRecord,
    SplitRule,
    load_manifest,
    save_manifest,
)
from vocdist.shards.plan import PlannedSample, ShardPlan, plan_hash, plan_shards
from vocdist.shards.samples import SplitSamples
from vocdist.shards.write import write_shard
from vocdist.voc.counts import count_split


def convert(
    samples: SplitSamples,
    output: Path,
    *,
    name: str,
    classes: Sequence[str],
    split_rule: SplitRule,
    skip_difficult: bool,
    samples_per_shard: int,
    workers: int = 1,
) -> Manifest:
    """Write the shards of a data set and publish them by their manifest.

    The bytes depend on the samples and `samples_per_shard` alone, not on `workers`. When the
    folder already holds exactly these shards, nothing is written.

    Raises:
        UserError: The folder holds something else, or writing failed; no file is left under a
            final name that is not whole.
    """
    plans = plan_shards(samples.splits, samples_per_shard)
    identity = plan_hash(plans)
    if (output / MANIFEST_NAME).exists():
        return _existing(output, identity)
    try:
        output.mkdir(parents=True, exist_ok=True)
        _refuse_foreign_files(output, plans)
        remove_temporaries(output)
        records = _write_all(plans, output, workers)
        manifest = Manifest(
            name=name,
            classes=tuple(classes),
            split_rule=split_rule,
            skip_difficult=skip_difficult,
            splits={
                split: _split_record(samples.splits[split], records[split], classes)
                for split in plans
            },
            left_out=samples.left_out_counts(),
            unknown_objects=dict(sorted(samples.unknown_objects.items())),
            plan_sha256=identity,
        )
        save_manifest(manifest, output)
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror or error}): free some space or choose "
            f"another output, then run the same command again"
        ) from None
    return manifest


def _existing(output: Path, identity: str) -> Manifest:
    manifest = load_manifest(output)
    if manifest.plan_sha256 != identity:
        raise UserError(
            f"{output}: holds shards of other data or other settings ('{manifest.name}'): choose "
            f"another output, or delete that folder"
        )
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        path = output / shard.name
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise UserError(f"{path}: missing or cut: delete {output} and convert again")
    return manifest


def _refuse_foreign_files(output: Path, plans: Mapping[str, Sequence[ShardPlan]]) -> None:
    """A folder without a manifest may hold what an interrupted run of this plan left, no more."""
    ours = {plan.name for split in plans.values() for plan in split}
    ours |= {index_path(Path(name)).name for name in ours}
    foreign = sorted(
        entry.name
        for entry in output.iterdir()
        if entry.name not in ours and not entry.name.startswith(".")
    )
    if foreign:
        raise UserError(f"{output}: not empty (it holds {foreign[0]}): choose another output")


def _write_all(
    plans: Mapping[str, Sequence[ShardPlan]], output: Path, workers: int
) -> dict[str, list[ShardRecord]]:
    flat = [plan for split in plans.values() for plan in split]
    written: Iterable[ShardRecord] = Parallel(
        n_jobs=min(workers, len(flat)), return_as="generator"
    )(delayed(write_shard)(plan, output) for plan in flat)
    records = {}
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=sum(len(p.samples) for p in flat), unit="img", disable=None) as bar:
        for record in written:
            records[record.name] = record
            bar.update(record.samples)
    return {split: [records[plan.name] for plan in members] for split, members in plans.items()}


def _split_record(
    samples: Sequence[PlannedSample], shards: Sequence[ShardRecord], classes: Sequence[str]
) -> SplitRecord:
    boxes = (np.asarray(s.record["boxes"], dtype=np.int32).reshape(-1, 5) for s in samples)
    counts = count_split(boxes, classes)
    return SplitRecord(
        samples=counts.samples,
        objects=sum(counts.objects.values()),
        class_images=counts.images,
        class_objects=counts.objects,
        shards=tuple(shards),
    )
