"""Which image of an export is in which part: its folders, its lists, and what they leave open."""

import difflib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vocdist.errors import UserError
from vocdist.voc.export_files import ImageIndex, home_of, part_named
from vocdist.voc.export_pairs import Entry
from vocdist.voc.split import LIST_FLAGS, VERSION
from vocdist.voc.text import composed, read_text_list

# As scripts/make_shards.py draws them.
TRAIN_SHARE, SEED = 0.8, 42


@dataclass(slots=True)
class Parts:
    """The stems of each part, and what is to be said of how it came about.

    Attributes:
        lists: `train`, `val`, `test` -> stems; empty: the conversion divides the images.
        notes: Lines of report.
        lists_read: The files of the export that are lists of these parts.
    """

    lists: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lists_read: list[Path] = field(default_factory=list)


def divide(entries: Sequence[Entry], export: Path, texts: Sequence[Path]) -> Parts:
    """The parts of an export's images, in the names of the new tree.

    What the export's lists say comes first, then what an annotation file says of its images, then
    the innermost folder that names a part. Images without an annotation are in no list.

    Raises:
        UserError: All images are in test, or all others are of one picture; an image's folder and
            its XML's name different parts; or no image is known that a list names.
    """
    parts = Parts()
    usable = [entry for entry in entries if entry.image and (entry.xml or entry.text)]
    folders = {entry: _folder_part(entry, export) for entry in usable}
    listed = _listed(usable, export, texts, parts)
    from_lists = {"train", "val"} <= set(listed.values()) or not any(folders.values())
    part_of: dict[Entry, str | None]
    if listed and from_lists:
        part_of = {entry: listed.get(entry) for entry in usable}
        torn = [e for e in usable if listed.get(e) and folders[e] not in (None, listed[e])]
        if torn:
            parts.notes.append(
                f"{len(torn):,} images are listed in another part than their folder names, as "
                f"{torn[0].path.relative_to(export)} (in the list of {listed[torn[0]]}): "
                "the lists decide"
            )
        # A part that the lists do not have, as test, keeps what its folder says.
        rest = {p for p in folders.values() if p} - set(listed.values())
        part_of |= {e: folders[e] for e in usable if folders[e] in rest and e not in listed}
    else:
        if listed:
            parts.notes[:] = ["the lists of the export are passed over: its folders name parts"]
            parts.lists_read.clear()
        part_of = dict(folders)
    _complete(part_of, parts, export)
    return parts


def pictures_of(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Entries by the picture that they are versions of: equal names up to `.rf.` and a hash."""
    pictures = defaultdict(list)
    for entry in entries:
        stem = composed(entry.path.stem)
        # Without a hash a name says nothing: its entry stands alone, by the stem that is unique.
        shared = f"{VERSION.sub('', stem)}.rf." if VERSION.search(stem) else f"/{entry.stem}"
        pictures[shared].append(entry)
    return dict(pictures)


def _complete(part_of: Mapping[Entry, str | None], parts: Parts, export: Path) -> None:
    """Fill `parts` from what is known: train and val are drawn where one of them is missing."""
    count = Counter(part_of.values())
    known = {part for part in count if part}
    pictures = pictures_of(part_of)
    versions = any(len(group) > 1 for group in pictures.values())
    if known == {"test"} and not count[None]:
        folder = next(iter(part_of)).path.parent
        raise UserError(
            f"{folder}: all {count['test']:,} images are in a part called test, which no training "
            "sees: rename that folder or list, or pass the folder that has train beside it"
        )
    if "val" in known and "train" not in known and count[None]:
        parts.notes.append(
            f"{count[None]:,} images are in no part: taken for train, as there is a part val"
        )
        part_of = {entry: part or "train" for entry, part in part_of.items()}
        known.add("train")
    if {"train", "val"} <= known:
        for part in ("train", "val", "test"):
            stems = [entry.stem for entry, own in part_of.items() if own == part]
            if stems:
                parts.lists[part] = stems
        _note_lists(part_of, pictures, parts)
        return
    if "test" not in known and not versions:
        if len(known) == 1 and not count[None]:
            parts.notes.append(
                f"all {sum(count.values()):,} images are in one part, {next(iter(known))}: "
                "the conversion draws train and val from them"
            )
        elif known:
            parts.notes.append(
                f"{count[next(iter(known))]:,} of {len(part_of):,} images are in a part called "
                f"{next(iter(known))} and the others in none: that is not taken for a split"
            )
        return
    pool = [entry for entry, part in part_of.items() if part in ("train", "val")]
    pool = pool or [entry for entry, part in part_of.items() if part is None]
    train, val = _drawn(pool)
    if not val:
        raise UserError(
            f"{pool[0].path}: all {len(pool):,} images outside test are of one picture, which "
            "cannot be divided into train and val: add others"
        )
    test = [entry.stem for entry, part in part_of.items() if part == "test"]
    parts.lists = {"train": train, "val": val} | ({"test": test} if test else {})
    missing = " and ".join(part for part in ("train", "val") if part not in known)
    parts.notes.append(
        f"the export names no part {missing}: of {len(pool):,} images, {len(train):,} were drawn "
        f"for train and {len(val):,} for val (seed {SEED})"
    )
    if versions:
        parts.notes.append(
            f"{len(part_of):,} images are {len(pictures):,} pictures (.rf. and a hash): the "
            "versions of one were drawn together"
        )
    _note_lists(part_of, pictures, parts)


def _note_lists(
    part_of: Mapping[Entry, str | None], pictures: Mapping[str, Sequence[Entry]], parts: Parts
) -> None:
    if "test" in parts.lists:
        parts.notes.append(
            f"{len(parts.lists['test']):,} images of test are kept out of train and val"
        )
    owner = {stem: part for part, stems in parts.lists.items() for stem in stems}
    torn = [
        group
        for group in pictures.values()
        if len({owner[entry.stem] for entry in group if entry.stem in owner}) > 1
    ]
    if torn:
        parts.notes.append(
            f"{len(torn):,} pictures have versions (.rf. and a hash) in several parts, as "
            f"{torn[0][0].path.name}: what is measured on val or test was seen in train"
        )
    outside = [entry for entry in part_of if entry.stem not in owner]
    if outside:
        parts.notes.append(
            f"{len(outside):,} images are in no part, as {outside[0].path.name}: split=lists "
            "leaves them out"
        )


def _drawn(pool: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """Stems for train and val: pictures in a seeded order, train up to its share of the images."""
    pictures = pictures_of(pool)
    order = sorted(pictures)
    random.Random(SEED).shuffle(order)
    # One picture at least for val, and one for train before that.
    cut = min(max(int(len(order) * TRAIN_SHARE), 1), max(len(order) - 1, 1))
    stems = [sorted(entry.stem for entry in pictures[name]) for name in order]
    return (
        [stem for group in stems[:cut] for stem in group],
        [stem for group in stems[cut:] for stem in group],
    )


def _folder_part(entry: Entry, export: Path) -> str | None:
    """The part that the innermost folder names, of the image or of its XML.

    Raises:
        UserError: The two name different parts.
    """
    if entry.part:
        return entry.part
    said = {
        path: next(filter(None, map(part_named, reversed(home_of(path, export)))), None)
        for path in (entry.image, entry.xml)
        if path is not None
    }
    named = {part for part in said.values() if part}
    if len(named) > 1:
        raise UserError(
            f"{entry.xml}: lies in the folder of {said[entry.xml or entry.path]}, its image "
            f"{entry.image} in that of {said[entry.path]}: put them into the same part"
        )
    return next(iter(named), None)


def _listed(
    entries: Sequence[Entry], export: Path, texts: Sequence[Path], parts: Parts
) -> dict[Entry, str]:
    """Entry -> part, by the lists of the export; an empty dict where it has none.

    Raises:
        UserError: An image is in two lists, or no image is known that a list names.
    """
    index = ImageIndex(entry.image for entry in entries if entry.image)
    by_image = {entry.image: entry for entry in entries}
    # An XML of another name than its image's is what a list may go by.
    by_xml = ImageIndex(entry.xml for entry in entries if entry.xml)
    of_xml = {entry.xml: entry for entry in entries}
    found: dict[Entry, str] = {}
    source: dict[Entry, Path] = {}
    for path, part in _lists_of_parts(texts):
        official = path.parent.name.lower() == "main"
        names = read_names(path)
        near = [path.parent.parent.parent] if official else [path.parent]
        images = {name: index.find(name, near) for name in names}
        known = {
            name: by_image[image] if image else of_xml[xml]
            for name, image in images.items()
            if image or (xml := by_xml.find(name, near))
        }
        if not known:
            if not official or not names:
                continue  # the labels of an image called test, or other text
            if part == "test":  # VOC2007 lists there what another archive holds
                parts.notes.append(f"{path.relative_to(export)}: none of its images is there")
                continue
            nearest = _nearest_name(names[0], entries)
            raise UserError(
                f"{path}: none of its {len(names):,} lines names an image with an annotation; the "
                f"first is {names[0]}, the nearest name that is there {nearest}: mend the list, or "
                "take it out of the export"
            )
        for entry in known.values():
            if found.setdefault(entry, part) != part:
                raise UserError(
                    f"{path}: lists {entry.path.name} for {part}, and {source[entry]} lists it for "
                    f"{found[entry]}: an image is in one part alone"
                )
            source.setdefault(entry, path)
        parts.lists_read.append(path)
        vain = len(names) - len(known)
        parts.notes.append(
            f"{path.relative_to(export)}: {len(known):,} images, taken for {part}"
            + (f"; {vain:,} of its lines name no image with an annotation" if vain else "")
        )
    return found


def _lists_of_parts(texts: Sequence[Path]) -> list[tuple[Path, str]]:
    """Lists that are called after a part; VOC's of `ImageSets/Main`, where they are, alone."""
    lists = [(path, part) for path in texts if (part := part_named(path.stem))]
    lists = [(path, part) for path, part in lists if path.suffix.lower() == ".txt"]
    main = [(path, part) for path, part in lists if path.parent.name.lower() == "main"]
    # ImageSets/Segmentation and its like list other images, for other tasks.
    tasks = ("segmentation", "layout", "action")
    return main or [item for item in lists if item[0].parent.name.lower() not in tasks]


def read_names(path: Path) -> list[str]:
    """The names in a list, one a line; flags of VOC's lists, quotes and `#` lines are dropped.

    Raises:
        UserError: It cannot be read, or is no text.
    """
    names = []
    for line in read_text_list(path).splitlines():
        fields = line.strip().rsplit(maxsplit=1)
        # A name may hold blanks, so only a true flag is cut off.
        name = fields[0] if len(fields) == 2 and fields[1] in LIST_FLAGS else line.strip()
        name = name.strip("\"'")
        if name and not name.startswith("#"):
            names.append(name)
    return list(dict.fromkeys(names))


def _nearest_name(name: str, entries: Sequence[Entry]) -> str:
    stems = {composed(entry.path.stem): entry.path.name for entry in entries}
    last = re.split(r"[\\/]", name)[-1]
    close = difflib.get_close_matches(last, stems, n=1, cutoff=0.0)
    return stems[close[0]] if close else "none"
