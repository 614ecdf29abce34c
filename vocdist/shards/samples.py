"""From a VOC root to the samples of each split, with everything that was left out accounted for."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from vocdist.errors import UserError
from vocdist.shards.division import Division, divide
from vocdist.shards.engine import run_tasks
from vocdist.shards.format import parse_record
from vocdist.shards.images import BoxFrame, Shrink
from vocdist.shards.inspect import Inspected, Inspection, inspect_pairs
from vocdist.shards.plan import PlannedSample
from vocdist.shards.rejections import Rejection, check_share, shown_path, stop_if_strict
from vocdist.voc.classes import class_ids
from vocdist.voc.pairing import FilePair, LeftOut, match_files
from vocdist.voc.split import missing_stems
from vocdist.voc.text import composed, printable

# Large enough that handing over costs nothing, small enough for an even load.
PAIRS_PER_TASK = 64
# Boxes that all end within 100 pixels are taken for percent from so many on, where the short sides
# of their images are at least so many pixels.
PERCENT_BOXES, PERCENT_SIDE = 10, 200


@dataclass(frozen=True)
class SplitSamples:
    """What a VOC root gives.

    Attributes:
        images: The folder that holds the image files.
        shrink: How their images are to be made smaller, if they are.
        splits: Split name -> its samples, in order.
        split_kind: `lists` or `seeded`: what divided them.
        notes: Lines for the user on names, lists and splits.
        rejections: Files that became no sample, boxes left out, and what was taken with a change,
            with the reason.
        unlisted: Usable samples that no split list names.
        unknown_objects: Boxes of classes outside the list, by name.
        difficult: Boxes left out because they are flagged difficult.
        negatives: Samples of nothing, by an XML without objects or by none.
    """

    images: Path
    shrink: Shrink | None
    splits: Mapping[str, Sequence[PlannedSample]]
    split_kind: Literal["lists", "seeded"]
    notes: Sequence[str]
    rejections: Sequence[Rejection]
    unlisted: int
    unknown_objects: Mapping[str, int]
    difficult: int
    negatives: int

    def left_out_counts(self) -> dict[str, int]:
        """Reason -> number of files."""
        counts = Counter(item.reason for item in self.rejections if item.what == "file")
        counts["not_in_a_list"] += self.unlisted
        return {reason: count for reason, count in sorted(counts.items()) if count}

    def box_counts(self) -> dict[str, int]:
        """Reason -> number of boxes that were left out."""
        counts = Counter(item.reason for item in self.rejections if item.what == "box")
        counts["difficult"] += self.difficult
        return {reason: count for reason, count in sorted(counts.items()) if count}

    def changed_counts(self) -> dict[str, int]:
        """Reason -> number of files or boxes that were taken otherwise than the files have them."""
        changed = ("changed_file", "changed_box")
        counts = Counter(item.reason for item in self.rejections if item.what in changed)
        return dict(sorted(counts.items()))

    @property
    def clipped(self) -> int:
        """Number of boxes that were cut to their image."""
        return sum(item.what == "clipped_box" for item in self.rejections)


def samples_of(
    root: Path,
    classes: Sequence[str],
    *,
    split_lists: bool | None,
    split_ratio: float,
    split_seed: int,
    skip_difficult: bool,
    shrink: Shrink | None = None,
    follow_links: bool = False,
    decode: bool = True,
    negatives: bool = False,
    exif_boxes: BoxFrame = "auto",
    strict: bool = False,
    max_rejected: float = 0.1,
    workers: int = 1,
    engine: str = "local",
) -> SplitSamples:
    """Pair, read, check and split a VOC root; every annotation and image is looked at.

    The settings are those of `ShardsConfig`; the result does not depend on `workers`. With
    `split_lists` the tree's lists divide the samples, without it a shuffle does; None: `auto`.

    Raises:
        UserError: Too little is usable, or, if `strict`, the first thing that is wrong.
    """
    inspection = Inspection(
        root, class_ids(classes), skip_difficult, shrink, decode, negatives, exif_boxes
    )
    matched = match_files(root, follow_links=follow_links, negatives=negatives)
    collected = _Collected(strict)
    collected.reject(_of_files(matched.left_out, root))
    for found in _inspect_all(matched.pairs, inspection, workers, engine):
        collected.add(found)
    planned = collected.planned
    _check_classes(collected)
    bare = {composed(item.path.stem) for item in matched.left_out if item.reason == "no_annotation"}
    division = divide(
        root,
        list(planned),
        collected.refused | bare,
        follow_lists=split_lists,
        ratio=split_ratio,
        seed=split_seed,
    )
    if division.kind == "lists":
        collected.reject(_listed_in_vain(division, planned, collected.refused, bare))
    splits = {
        name: [planned[stem] for stem in members if stem in planned]
        for name, members in division.stems.items()
    }
    used = sum(len(members) for members in splits.values())
    check_share(collected.rejections, used, max_rejected)
    kept = {stem for members in division.stems.values() for stem in members}
    return SplitSamples(
        images=root / "JPEGImages",
        shrink=shrink,
        splits=splits,
        split_kind=division.kind,
        notes=(
            *matched.notes,
            *_misnamed(collected),
            *note_on_percent(sample.record for sample in planned.values()),
            *division.notes,
        ),
        rejections=collected.rejections,
        unlisted=len(planned) - used,
        unknown_objects=dict(sorted(collected.unknown.items())),
        difficult=collected.difficult,
        negatives=len(collected.negatives & kept),
    )


class _Collected:
    """The results of the inspection as they come in, in the order of the stems."""

    def __init__(self, strict: bool) -> None:
        self.planned: dict[str, PlannedSample] = {}
        self.refused: set[str] = set()
        self.rejections: list[Rejection] = []
        self.unknown: Counter[str] = Counter()
        self.difficult = 0
        self.negatives: set[str] = set()
        self.filenames: dict[str, str] = {}
        self._strict = strict
        self._stem_of_key: dict[str, str] = {}

    def add(self, found: Inspected) -> None:
        """Take a result in; one whose key is taken is refused."""
        self.reject(found.rejections)
        if found.sample is None:
            self.difficult += found.difficult
            self.refused.add(found.stem)
            return
        owner = self._stem_of_key.setdefault(found.sample.key, found.stem)
        if owner != found.stem:
            self.refused.add(found.stem)
            file = f"JPEGImages/{found.sample.image_name}"
            detail = f"its key '{found.sample.key}' is taken by the image of {owner}.xml: rename it"
            self.reject([Rejection(file, "file", "duplicate_key", detail)])
            return
        if self._strict and found.unknown:
            name = next(iter(found.unknown))
            raise UserError(
                f"Annotations/{found.stem}.xml: an object of class '{name}', which is not in "
                f"classes: add it, or set strict=false, which counts such objects and goes on"
            )
        self.planned[found.stem] = found.sample
        self.unknown += found.unknown
        self.difficult += found.difficult
        self.filenames[found.stem] = found.filename
        if found.negative:
            self.negatives.add(found.stem)

    def reject(self, rejections: Iterable[Rejection]) -> None:
        """Note what was left out; if strict, stop at the first."""
        for item in rejections:
            if self._strict:
                stop_if_strict([item])
            self.rejections.append(item)


def _check_classes(collected: _Collected) -> None:
    """Stop where no object at all is of the classes: every image would be one of nothing."""
    known = any(sample.record.find(b'"boxes":[]') < 0 for sample in collected.planned.values())
    if known or not (collected.unknown or collected.negatives):
        return
    if not collected.unknown:
        raise UserError("no image has a box, with or without negatives: nothing is to be learned")
    found = ", ".join(f"{name} ({count:,})" for name, count in collected.unknown.most_common(20))
    raise UserError(
        f"no object is of the given classes; the data set has {found}: pass them, as "
        f"classes=[{','.join(sorted(collected.unknown)[:20])}]"
    )


def _misnamed(collected: _Collected) -> list[str]:
    """A line that counts the XMLs whose `<filename>` is another image that is there."""
    images = {composed(sample.image_name) for sample in collected.planned.values()}
    said = {stem: re.split(r"[\\/]", name)[-1] for stem, name in collected.filenames.items()}
    wrong = [
        stem
        for stem, name in said.items()
        if composed(name) in images
        and composed(name) != composed(collected.planned[stem].image_name)
    ]
    if not wrong:
        return []
    return [
        f"{len(wrong):,} annotations name another image that is there in <filename>, as "
        f"{printable(wrong[0])}.xml ({printable(said[wrong[0]])}): the XML's own name decides"
    ]


def note_on_percent(records: Iterable[bytes]) -> list[str]:
    """A line where all boxes of a data set look like percent of the sides, from stored records.

    Corners of 0 to 1 are refused one by one, since no object is so small. One of 0 to 100 may be
    in pixels; all of them, on images that are much larger, are hardly.
    """
    boxes, smallest, furthest = 0, 1 << 30, np.zeros(2)
    for stored in records:
        found = parse_record(stored)
        if not len(found.boxes):
            continue
        smallest = min(smallest, found.width, found.height)
        furthest = np.maximum(furthest, (found.boxes[:, 1:3] + found.boxes[:, 3:5]).max(axis=0))
        # Of nearly all data sets this is found at the first image.
        if furthest.max() > 100 or smallest < PERCENT_SIDE:
            return []
        boxes += len(found.boxes)
    if boxes < PERCENT_BOXES or furthest.min() <= 50:
        return []
    return [
        f"all {boxes:,} boxes end within 100 pixels, on images of {smallest:,} and more: if their "
        f"corners are percent of the width and height, export them in pixels, as VOC has them"
    ]


def _of_files(left_out: Sequence[LeftOut], root: Path) -> Iterator[Rejection]:
    for item in sorted(left_out, key=lambda item: item.path):
        yield Rejection(shown_path(item.path, root), "file", item.reason, item.detail)


def _inspect_all(
    pairs: Sequence[FilePair], inspection: Inspection, workers: int, engine: str
) -> Iterator[Inspected]:
    tasks = [
        (pairs[start : start + PAIRS_PER_TASK], inspection)
        for start in range(0, len(pairs), PAIRS_PER_TASK)
    ]
    workers = min(workers, max(1, len(tasks)))
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=len(pairs), desc="check", unit="img", disable=None) as bar:
        for results in run_tasks(inspect_pairs, tasks, workers=workers, engine=engine):
            yield from results
            bar.update(len(results))


def _listed_in_vain(
    division: Division, planned: Mapping[str, object], refused: set[str], bare: set[str]
) -> list[Rejection]:
    """Stems that a list names and no file has; those refused for a fault are reported already."""
    there = {**planned, **dict.fromkeys(refused)}
    return [
        Rejection(
            f"ImageSets/Main/{split}.txt",
            "file",
            "listed_in_vain",
            f"lists {printable(stem)}, which has no image with an annotation"
            + (": negatives=true keeps it" if stem in bare else ""),
        )
        for split, names in missing_stems(division.stems, there).items()
        for stem in names
    ]
