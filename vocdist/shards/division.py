"""Train and val of what can be used: by the tree's lists where it has both, otherwise by seed."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vocdist.errors import UserError
from vocdist.voc.split import (
    are_official,
    find_lists,
    listed_split,
    pictures_of,
    resolve_lists,
    seeded_split,
    torn_pictures,
)
from vocdist.voc.text import printable


@dataclass(frozen=True, slots=True)
class Division:
    """How the samples are divided.

    Attributes:
        kind: `lists` where the tree's lists say it, `seeded` where a shuffle does.
        stems: Split name -> stems in order; of lists, some may be of no usable sample.
        notes: Lines for the user on how it came about.
    """

    kind: Literal["lists", "seeded"]
    stems: dict[str, list[str]]
    notes: tuple[str, ...]


def divide(
    root: Path,
    usable: Sequence[str],
    others: Collection[str],
    *,
    follow_lists: bool | None,
    ratio: float,
    seed: int,
) -> Division:
    """Divide the stems of usable samples.

    Where neither is asked for, it follows the lists of train and val if both are there, but for
    VOC2007's and VOC2012's own, which leave out a third of VOC2012's images. A list of val alone
    leaves the rest to train, and images that a list of test names are in neither.

    Args:
        root: The VOC root.
        usable: Stems of usable samples.
        others: Stems of files that are there and not usable: a list may name them.
        follow_lists: True: whatever they are; False: shuffle; None: as said above.
        ratio: Share of train in a seeded split.
        seed: Of its shuffle.

    Raises:
        UserError: A list cannot be read, or none of its lines names a sample.
    """
    if follow_lists:
        return _by_lists(root, listed_split(root), usable, others)
    if follow_lists is False:
        return _by_seed(usable, ratio, seed, _passed_over(root))
    lists, notes = _filled_lists(root)
    if {"train", "val"} <= lists.keys():
        split = listed_split(root)
        if not are_official(split):
            return _by_lists(root, split, usable, others)
        notes.append(
            f"split: seeded, {ratio:g} of the images for train; VOC's own lists of "
            f"{len(split['train']):,} and {len(split['val']):,} are passed over: split=lists "
            "follows them"
        )
        return _by_seed(usable, ratio, seed, notes)
    parts = [part for part in ("val", "test") if part in lists]
    named: dict[str, list[str]] = {}
    if parts:
        resolved = resolve_lists(root, listed_split(root, parts), [*usable, *others])
        named, notes = resolved.split, [*notes, *resolved.notes]
    kept_out = set(named.get("test", ()))
    left = [stem for stem in usable if stem not in kept_out]
    if kept_out & set(usable):
        notes.append(
            f"{len(kept_out & set(usable)):,} images of {lists['test'].name} are kept out of train "
            "and val: split=seeded shuffles them in"
        )
    if "val" in lists:
        _check_names_something(lists["val"], named["val"], usable, others)
        val = set(named["val"])
        notes.append(f"ImageSets/Main has {lists['val'].name} alone: all other images are train")
        split = {"train": [s for s in sorted(left) if s not in val], "val": named["val"]}
        return Division("lists", split, (*notes, *_notes_on_lists(split, usable)))
    if "train" in lists:
        notes.append(
            f"ImageSets/Main has {lists['train'].name} and no list of val: passed over, the split "
            "is seeded"
        )
    return _by_seed(left, ratio, seed, notes)


def _by_seed(usable: Sequence[str], ratio: float, seed: int, notes: Sequence[str]) -> Division:
    split = seeded_split(usable, ratio, seed)
    pictures = pictures_of(usable)
    if len(pictures) < len(usable):
        notes = [
            *notes,
            f"{len(usable):,} images are {len(pictures):,} pictures (names equal up to .rf. and a "
            "hash): the copies of one are in one split together",
        ]
    return Division("seeded", split, (*notes, *_notes_on_empty(split, "change split_ratio")))


def _by_lists(
    root: Path,
    raw: Mapping[str, Sequence[str]],
    usable: Sequence[str],
    others: Collection[str],
) -> Division:
    resolved = resolve_lists(root, raw, [*usable, *others])
    lists = find_lists(root)
    for name, stems in resolved.split.items():
        _check_names_something(lists[name], stems, usable, others)
    notes = _notes_on_lists(resolved.split, usable)
    return Division("lists", resolved.split, (*notes[:1], *resolved.notes, *notes[1:]))


def _notes_on_lists(split: Mapping[str, Sequence[str]], usable: Sequence[str]) -> list[str]:
    there = set(usable)
    used = {name: [stem for stem in stems if stem in there] for name, stems in split.items()}
    counts = ", ".join(f"{len(stems):,} {name}" for name, stems in used.items())
    notes = [f"split: ImageSets/Main, {counts}; split=seeded shuffles instead"]
    if torn := torn_pictures(used):
        notes.append(
            f"{len(torn):,} pictures have copies (names equal up to .rf. and a hash) in train and "
            f"in val, as {printable(torn[0])}: what val measures was seen in training"
        )
    return notes + _notes_on_empty(used, "mend its list")


def _notes_on_empty(split: Mapping[str, Sequence[str]], remedy: str) -> list[str]:
    return [
        f"{name}: 0 images: a training refuses such shards; add images, or {remedy}"
        for name, stems in split.items()
        if not stems
    ]


def _filled_lists(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The lists that hold anything: some tools write all of them, whatever is in them."""
    lists = find_lists(root)
    filled = {part: path for part, path in lists.items() if path.stat().st_size}
    empty = [path.name for part, path in lists.items() if part not in filled]
    return filled, [f"ImageSets/Main: {' and '.join(empty)} empty, passed over"] if empty else []


def _passed_over(root: Path) -> list[str]:
    try:
        lists = find_lists(root)
    except UserError:
        return []
    if not {"train", "val"} <= lists.keys():
        return []
    return [
        "split: seeded; the lists of train and val in ImageSets/Main are passed over: split=lists "
        "follows them"
    ]


def _check_names_something(
    path: Path, stems: Sequence[str], usable: Sequence[str], others: Collection[str]
) -> None:
    """Stop at a list that is of another tree."""
    there = [*usable, *others]
    if not there or not set(there).isdisjoint(stems):
        return
    near = difflib.get_close_matches(stems[0], there, n=1, cutoff=0.0) if stems else []
    raise UserError(
        f"{path}: none of its {len(stems):,} lines names an image with an annotation; the first is "
        f"{printable(stems[0]) if stems else 'missing'}, the nearest name that is there "
        f"{printable(near[0]) if near else 'none'}: mend the list, or split=seeded shuffles instead"
    )
