"""The conversion: samples -> plan -> shards -> manifest, each shard an independent unit of work.

The bytes do not depend on how many workers there are, and shards that an interrupted run left, by
their hash, are not written again.
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.files.atomic import fsync, remove_temporaries
from vocdist.shards.engine import run_tasks
from vocdist.shards.format import (
    MANIFEST_NAME,
    PROGRESS_NAME,
    ImageRule,
    Manifest,
    ShardRecord,
    SplitRecord,
    SplitRule,
    index_path,
    load_manifest,
    save_info,
    save_manifest,
)
from vocdist.shards.plan import PlannedSample, ShardPlan, plan_hash, plan_shards
from vocdist.shards.rejections import save_rejections
from vocdist.shards.samples import SplitSamples
from vocdist.shards.write import read_progress, start_progress, write_shard
from vocdist.shards.writer_lock import locked_for_writing, write_error
from vocdist.voc.counts import count_class_ids

Plans = Mapping[str, Sequence[ShardPlan]]
# What a folder may hold before its manifest.
OUR_FILE = re.compile(r".+-\d{6}\.(tar|idx)|rejected\.jsonl|_info\.json")


def convert(
    samples: SplitSamples,
    output: Path,
    *,
    name: str,
    classes: Sequence[str],
    split_rule: SplitRule,
    skip_difficult: bool,
    samples_per_shard: int,
    lock_token: str | None = None,
    workers: int = 1,
    engine: str = "local",
) -> Manifest:
    """Write the shards of a data set and publish them by their manifest.

    `lock_token` is that of a caller who holds `output` already, by `locked_output`.

    Raises:
        UserError: The folder holds something else or is being written, or writing failed; no file
            is left under a final name that is not whole.
    """
    plans = plan_shards(
        samples.splits, samples_per_shard, images=samples.images, shrink=samples.shrink
    )
    identity = plan_hash(plans)
    try:
        with nullcontext(lock_token) if lock_token else locked_output(output) as held:
            done = _records_so_far(output, identity)
            try:
                records = _write_all(plans, output, held, done, workers=workers, engine=engine)
            finally:
                remove_temporaries(output)
            manifest = Manifest(
                name=name,
                classes=tuple(classes),
                split_rule=split_rule,
                skip_difficult=skip_difficult,
                splits={
                    split: split_record(samples.splits[split], members, records, classes)
                    for split, members in plans.items()
                },
                plan_sha256=identity,
                **source_fields(samples),
            )
            manifest = _publish(manifest, samples, output)
    except OSError as error:
        raise write_error(output, error) from None
    return manifest


@contextmanager
def locked_output(output: Path) -> Iterator[str]:
    """Hold a folder that is new or holds a conversion, whole or not; yields the lock token.

    Taken before the data set is read, it refuses at once what would be refused an hour later.

    Raises:
        UserError: The folder holds something else, is being written, or cannot be.
    """
    with locked_for_writing(output) as lock_token:
        _refuse_other_files(output)
        yield lock_token


def _records_so_far(output: Path, identity: str) -> dict[str, ShardRecord]:
    """What the manifest or an interrupted run states of shards that are there, by name."""
    remove_temporaries(output)
    if (output / MANIFEST_NAME).exists():
        manifest = load_manifest(output)
        if manifest.plan_sha256 != identity:
            raise UserError(
                f"{output}: holds shards of other data or other settings ('{manifest.name}'): "
                f"choose another output, or delete that folder"
            )
        return {s.name: s for split in manifest.splits.values() for s in split.shards}
    done = read_progress(output, identity)
    if done is None:
        _clear_unfinished(output)
    start_progress(output, identity, done or {})
    return done or {}


def _refuse_other_files(output: Path) -> None:
    """Stop at a file that no conversion made; beside a manifest there may be anything."""
    if (output / MANIFEST_NAME).exists():
        return
    unfinished = (output / PROGRESS_NAME).exists()
    for path in sorted(output.iterdir()):
        ours = unfinished and OUR_FILE.fullmatch(path.name)
        if not (ours or path.name.startswith(".")):
            raise UserError(f"{output}: not empty (it holds {path.name}): choose another output")


def _clear_unfinished(output: Path) -> None:
    """Remove the shards that an interrupted run of another plan left, and say so."""
    left = [path for path in output.iterdir() if OUR_FILE.fullmatch(path.name)]
    shards = sum(path.suffix == ".tar" for path in left)
    if shards:
        print(
            f"{output}: {shards:,} shards of an unfinished conversion of other data or with other "
            f"settings are removed",
            file=sys.stderr,
            flush=True,
        )
    for path in left:
        path.unlink()


def _write_all(
    plans: Plans,
    output: Path,
    lock_token: str,
    done: Mapping[str, ShardRecord],
    *,
    workers: int,
    engine: str,
) -> dict[str, ShardRecord]:
    """Write what is not there yet; all is on the disk when the records come back, by name."""
    flat = [plan for split in plans.values() for plan in split]
    tasks = [(plan, output, lock_token, done.get(plan.name)) for plan in flat]
    results = run_tasks(write_shard, tasks, workers=min(workers, len(flat)), engine=engine)
    published = (output / MANIFEST_NAME).exists()
    records = {}
    images = sum(len(plan.samples) for plan in flat)
    with (
        # disable=None: no bar where stderr is not a terminal.
        tqdm(total=images, desc="write", unit="img", disable=None) as bar,
        ThreadPoolExecutor(8) as disk,
    ):
        on_disk = []
        for record, is_new in results:
            if is_new and published and record != done.get(record.name):
                raise UserError(
                    f"{output / record.name}: was damaged, and made again it is not what the "
                    f"manifest states (another version of Pillow?): delete {output} and convert "
                    f"again"
                )
            records[record.name] = record
            # While others are written: at the end the disk would keep everybody waiting.
            shard = output / record.name
            on_disk += [disk.submit(fsync, path) for path in (shard, index_path(shard))]
            bar.update(record.samples)
        for done_or_not in on_disk:
            done_or_not.result()
    return records


def _publish(manifest: Manifest, samples: SplitSamples, output: Path) -> Manifest:
    """Make a folder whose shards are on the disk a data set; its manifest.

    A data set that is found whole keeps its manifest to the byte: runs know it by that.
    """
    save_rejections(samples.rejections, output)
    save_info(manifest, output)
    published = load_manifest(output) if (output / MANIFEST_NAME).exists() else None
    if published is not None and _same_data(published, manifest):
        manifest = published
    else:
        save_manifest(manifest, output)
    (output / PROGRESS_NAME).unlink(missing_ok=True)
    return manifest


def _same_data(published: Manifest, made: Manifest) -> bool:
    """Whether all that a training reads is the same; names, rules and what was left out may not."""
    return (published.plan_sha256, published.classes, published.splits) == (
        made.plan_sha256,
        made.classes,
        made.splits,
    )


def source_fields(samples: SplitSamples) -> dict[str, Any]:
    """The manifest's fields about what became of the source."""
    shrink = samples.shrink
    rule = ImageRule(max_side=shrink.max_side, jpeg_quality=shrink.quality) if shrink else None
    return {
        "image_rule": rule or ImageRule(),
        "left_out": samples.left_out_counts(),
        "boxes_left_out": samples.box_counts(),
        "boxes_clipped": samples.clipped,
        "changed": samples.changed_counts(),
        "negatives": samples.negatives,
        "unknown_objects": dict(samples.unknown_objects),
    }


def split_record(
    samples: Sequence[PlannedSample],
    plans: Sequence[ShardPlan],
    records: Mapping[str, ShardRecord],
    classes: Sequence[str],
) -> SplitRecord:
    """A split's counts, and the records of its shards in their order."""
    counts = count_class_ids((sample.class_ids for sample in samples), classes)
    return SplitRecord(
        samples=counts.samples,
        objects=sum(counts.objects.values()),
        class_images=counts.images,
        class_objects=counts.objects,
        shards=tuple(records[plan.name] for plan in plans),
    )
