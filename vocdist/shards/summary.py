"""The closing words of a conversion: what was written, and what was left out and why."""

from collections.abc import Iterable

from rich.console import Console

from vocdist.remote.location import Location
from vocdist.shards.manifest import Manifest
from vocdist.voc.counts import SplitCounts, class_count_table, notes_on_absent


def print_summary(
    console: Console, manifest: Manifest, folder: Location, notes: Iterable[str] = ()
) -> None:
    """Print the class counts per split, the shards, and everything that is not in them.

    `notes` are lines on what was made of names, lists and splits; they come first.
    """
    for note in notes:
        # A line each, for who searches a log; names are no markup.
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(
        class_count_table(
            {
                name: SplitCounts(split.samples, split.class_images, split.class_objects)
                for name, split in manifest.splits.items()
            }
        )
    )
    for name, split in manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        console.print(
            f"{name}: {split.samples:,} images, {split.objects:,} boxes in "
            f"{len(split.shards)} shards, {size:,.1f} MB"
        )
    if {"train", "val"} <= manifest.splits.keys():
        train, val = manifest.splits["train"], manifest.splits["val"]
        for part, name in ((train, "train"), (val, "val")):
            if not part.samples:
                console.print(f"{name} has no image: a training needs some (split_ratio)")
        if train.samples and val.samples:
            for line in notes_on_absent(train.class_images, val.class_images):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    if manifest.negatives:
        console.print(f"images of nothing (negatives): {manifest.negatives:,}")
    _print_counts(console, "left out (files)", manifest.left_out)
    _print_counts(console, "left out (boxes)", manifest.boxes_left_out)
    if manifest.boxes_clipped:
        console.print(f"boxes cut to their image: {manifest.boxes_clipped:,}")
    if manifest.changed:
        _print_counts(console, "taken with a change, see rejected.jsonl", manifest.changed)
    _print_counts(console, "objects of unknown classes", manifest.unknown_objects)
    console.print(f"[bold]{folder}/manifest.json[/bold] is written: the shards are complete.")


def _print_counts(console: Console, title: str, counts: dict[str, int]) -> None:
    listed = ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
    # No markup: a class may well be called [person].
    console.print(f"{title}: {listed or 'none'}", markup=False)
