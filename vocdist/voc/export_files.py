"""What lies below the folder of an export: images, annotations, lists, and all else by suffix."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vocdist.voc.pairing import JPEG_SUFFIXES
from vocdist.voc.text import composed

# Stored as JPEG in the tree, which is what a VOC tree holds.
OTHER_IMAGES = frozenset(
    {".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pnm", ".avif"}
)
# Folders that say what kind of file they hold, not which data.
KINDS = frozenset(
    {"annotations", "annotation", "jpegimages", "images", "image", "imgs", "img", "labels"}
    | {"label", "xml", "xmls"}
)
PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
# Words beside a part's in the names of folders and files.
NOT_OF_PARTS = frozenset({"set", "instances", "split", "coco", "json", "yolo"})
# Made by systems and file servers: mirrors, previews and deleted files, never a part of the data.
SYSTEM_FOLDERS = frozenset({"__macosx", "@eadir", "$recycle.bin", "#recycle", "lost+found"})
# Of a folder's name, written as words: `SegmentationClass`, `instance-masks`, `AnnotationsVis…`.
MASK_WORD = re.compile(r"(?<![a-z])(segmentation|masks?(?![a-z])|visuali[sz]ation)")
# 000_mask.png is of 000.jpg.
MASK_ENDING = re.compile(r"[-_. ](mask|masks|seg|segmentation)$", re.IGNORECASE)


@dataclass(slots=True)
class ExportFiles:
    """The files of an export, each once, sorted by path; hidden ones are not among them.

    Attributes:
        folder: The export.
        images: Whose suffix is that of an image that can be taken, masks excepted.
        xmls: Named `.xml`.
        texts: Named `.txt`, `.names`, `.yaml`, `.yml`.
        jsons: Named `.json`.
        masks: Folder, relative to the export -> number of masks and drawings in it.
        others: Suffix -> number of files that are none of these.
        broken_links: Links that lead nowhere.
        links_above: Linked folders that hold the export itself: not entered.
    """

    folder: Path
    images: list[Path] = field(default_factory=list)
    xmls: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    jsons: list[Path] = field(default_factory=list)
    masks: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    broken_links: list[Path] = field(default_factory=list)
    links_above: list[Path] = field(default_factory=list)


def read_export(folder: Path) -> ExportFiles:
    """List an export. Linked folders are entered, each real folder once."""
    found = ExportFiles(folder)
    by_suffix = {
        **dict.fromkeys(JPEG_SUFFIXES | OTHER_IMAGES, found.images),
        ".xml": found.xmls,
        ".json": found.jsons,
        **dict.fromkeys((".txt", ".names", ".yaml", ".yml"), found.texts),
    }
    for path in sorted(_walk(found)):
        suffix = path.suffix.lower()
        if suffix in by_suffix:
            by_suffix[suffix].append(path)
        else:
            found.others[suffix or "without a suffix"] += 1
    masks = _masks(found)
    found.images = [path for path in found.images if path not in masks]
    found.masks.update(str(path.parent.relative_to(folder)) for path in masks)
    return found


def as_words(name: str) -> str:
    """`SegmentationClassMasks` -> `segmentation_class_masks`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def part_named(name: str) -> str | None:
    """The part that a folder's or list's name says: `Train`, `val2017`, `train_images`, `test-set`.

    `trainval` and `VOC2012_test` name none: they are names of whole data sets.
    """
    words = [word for word in re.split(r"[^a-z]+", as_words(name)) if word]
    named = [word for word in words if word not in KINDS | NOT_OF_PARTS]
    named = [word.removesuffix("set") for word in named]
    return PARTS.get(named[0]) if len(named) == 1 else None


def home_of(path: Path, export: Path) -> tuple[str, ...]:
    """The folders of a file that an image shares with its annotation."""
    parts = path.relative_to(export).parent.parts
    return tuple(composed(part) for part in parts if part.lower() not in KINDS)


class ImageIndex:
    r"""Finds images by the names that annotations and lists give them.

    Such a name has or lacks folders (`/` or a Windows `\` between them), a suffix, the letter
    case of the file; folders may be those of the machine on which it was written.
    """

    def __init__(self, images: Iterable[Path]) -> None:
        """Index by name and by stem."""
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in images:
            name = composed(path.name).casefold()
            self._by_name[name].append(path)
            stem = composed(path.stem).casefold()
            if stem != name:
                self._by_name[stem].append(path)

    def find(self, name: str, near: Sequence[Path] = ()) -> Path | None:
        """The one image that `name` means, None where there is none or several that fit as well.

        Of several, the one that shares most of the name's folders is taken, then one below the
        folders `near`, then, for a name without folders, the one with the fewest.
        """
        parts = [
            composed(part) for part in re.split(r"[\\/]+", name.strip()) if part not in ("", ".")
        ]
        if not parts:
            return None
        last = parts[-1].casefold()
        # A suffix may have changed on the way; that of `frame.0001` is none.
        stem, dot, suffix = last.rpartition(".")
        without = stem if f"{dot}{suffix}" in JPEG_SUFFIXES | OTHER_IMAGES | {".xml"} else last
        choice = self._by_name.get(last) or self._by_name.get(without) or []
        exact = [path for path in choice if parts[-1] in (composed(path.name), composed(path.stem))]
        choice = exact or choice
        if len(choice) > 1:
            shared = {path: _shared_folders(path, parts[:-1]) for path in choice}
            choice = [path for path in choice if shared[path] == max(shared.values())]
        for folder in near if len(choice) > 1 else ():
            below = [path for path in choice if path.is_relative_to(folder)]
            if below:
                choice = below
        if len(choice) > 1 and len(parts) == 1:  # without a folder, what lies in none is meant
            depth = min(len(path.parts) for path in choice)
            choice = [path for path in choice if len(path.parts) == depth]
        return choice[0] if len(choice) == 1 else None


def _shared_folders(path: Path, folders: Sequence[str]) -> int:
    """How many folders, from the innermost on, a path has in common with a name."""
    mine = [composed(part) for part in reversed(path.parent.parts)]
    count = 0
    for own, other in zip(mine, reversed(folders), strict=False):
        if own.casefold() != other.casefold():
            break
        count += 1
    return count


def _walk(found: ExportFiles) -> Iterator[Path]:
    """Files by the paths at which they are first met: real folders before links to them."""
    entered: set[Path] = set()
    waiting, linked = [found.folder], list[Path]()
    while waiting or linked:
        folder = waiting.pop() if waiting else linked.pop(0)
        real = folder.resolve()
        if real in entered:
            continue
        entered.add(real)
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FOLDERS:
                    continue
                path = folder / entry.name
                if entry.is_symlink() and not path.exists():
                    found.broken_links.append(path)
                elif entry.is_symlink() and entry.is_dir():
                    if found.folder.resolve().is_relative_to(path.resolve()):
                        found.links_above.append(path)
                    else:
                        linked.append(path)
                elif entry.is_dir():
                    waiting.append(path)
                elif entry.is_file():
                    yield path


def _masks(found: ExportFiles) -> list[Path]:
    """Images that are drawn from others: of their stems, in a folder whose name says so.

    Beside an .xml of its own an image is a photograph, whatever the folder is called.
    """
    annotated = {path.with_suffix("") for path in found.xmls}
    labelled = {path.with_suffix("") for path in found.texts}
    candidates, photographs = [], set[str]()
    for path in found.images:
        folders = path.relative_to(found.folder).parent.parts
        ending = MASK_ENDING.search(path.stem)
        own = path.with_suffix("") in annotated | labelled
        if not own and (ending or any(MASK_WORD.search(as_words(part)) for part in folders)):
            candidates.append(path)
        else:
            photographs.add(composed(path.stem).casefold())
    stems = {path: composed(path.stem).casefold() for path in candidates}
    return [
        path
        for path, stem in stems.items()
        if stem in photographs or MASK_ENDING.sub("", stem) in photographs
    ]
