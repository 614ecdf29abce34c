"""What a conversion leaves out, and its summary in the terminal."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.remote.location import Location
from vocdist.shards.format import Manifest
from vocdist.voc.counts import SplitCounts, class_count_table, notes_on_absent

REJECTED_NAME = "rejected.jsonl"
# Left out on purpose or as a matter of course: no sign of a broken data set.
HARMLESS = frozenset({"hidden_file", "not_in_a_list", "only_difficult", "exif_turned"})


@dataclass(frozen=True, slots=True, order=True)
class Rejection:
    """A file that became no sample, a box that was left out, or either taken with a change.

    Attributes:
        file: Path below the VOC root; bytes that are not UTF-8 are escaped.
        what: `file` or `box` (left out), `clipped_box` (kept, cut to the image), `changed_file` or
            `changed_box` (kept, otherwise than the files have it).
        reason: A slug to count by.
        detail: The same in words.
    """

    file: str
    what: Literal["file", "box", "clipped_box", "changed_file", "changed_box"]
    reason: str
    detail: str


def shown_path(path: Path, root: Path) -> str:
    """A path below `root`, for people and for JSON."""
    return shown_name(path.relative_to(root).as_posix())


def shown_name(name: str) -> str:
    """A file's name for people and for JSON: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def stop_if_strict(rejections: Iterable[Rejection]) -> None:
    """Raise a `UserError` for the first rejection that is not harmless."""
    for item in rejections:
        if item.reason not in HARMLESS:
            raise UserError(
                f"{item.file}: {item.detail} ({item.reason}): mend it or take it out; "
                f"strict=false leaves it out and goes on"
            )


def check_share(rejections: Sequence[Rejection], accepted: int, max_rejected: float) -> None:
    """Refuse a data set of which more than a share of the files was rejected.

    Raises:
        UserError: With the reasons, an example of each, and the remedy.
    """
    rejected = [i for i in rejections if i.what == "file" and i.reason not in HARMLESS]
    share = len(rejected) / max(1, accepted + len(rejected))
    if share <= max_rejected and accepted:
        return
    examples = {item.reason: item for item in reversed(rejected)}
    lines = [
        f"  {count:,} {reason}, as {examples[reason].file}: {examples[reason].detail}"
        for reason, count in Counter(item.reason for item in rejected).most_common()
    ]
    problem = (
        f"{len(rejected):,} of {accepted + len(rejected):,} files ({share:.1%}) cannot be used, "
        f"more than max_rejected={max_rejected:g}: mend them, or allow more with "
        f"max_rejected={min(1, share + 0.005):.2f}"
        if accepted
        else "no image with a usable annotation is left: nothing to convert"
    )
    raise UserError("\n".join([problem, *lines]))


def save_rejections(rejections: Iterable[Rejection], folder: Path) -> None:
    """Write `rejected.jsonl`: a JSON object per rejection, sorted, so that runs can be compared."""
    lines = [
        json.dumps(
            {"file": r.file, "what": r.what, "reason": r.reason, "detail": r.detail},
            ensure_ascii=False,
        )
        for r in sorted(rejections)
    ]
    with replaced_when_done(folder / REJECTED_NAME) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


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
