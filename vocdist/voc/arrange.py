"""Lay the export of an annotation tool out as a VOC tree: LabelImg, CVAT and Roboflow differ.

An image and its XML may lie side by side, in sibling folders (`images/`, `annotations/`), each
anywhere below the export, and in folders that name a split. What they hold is not looked at here:
every image and every .xml goes into the tree, and the conversion says what it cannot use.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.voc.pairing import JPEG_SUFFIXES, XML_SUFFIXES
from vocdist.voc.split import write_image_sets

# Stored as JPEG in the tree, which is what a VOC tree holds.
OTHER_IMAGES = frozenset({".png", ".bmp", ".webp", ".tif", ".tiff"})
# Folders that say what kind of file they hold, not which data.
KINDS = frozenset(
    {"annotations", "annotation", "jpegimages", "images", "image", "labels", "xml", "xmls"}
)
SPLIT_FOLDERS = {
    "train": "train",
    "valid": "val",
    "val": "val",
    "validation": "val",
    "test": "test",
}
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True)
class Arranged:
    """What went into a tree: numbers of files, and of stems in each list in `ImageSets/Main`."""

    images: int
    annotations: int
    reencoded: int
    lists: dict[str, int]


def arrange(export: Path, root: Path) -> Arranged:
    """Make the VOC tree `root` of an export; files are hard links where the disk allows it.

    Stems that occur in several folders get the folders' names in front. Images in folders named
    train, valid (or val) and test are listed in `ImageSets/Main`; otherwise the lists that the
    export has there are taken.

    Raises:
        UserError: The export holds no image or no .xml, or `root` is there already.
    """
    images = _files(export, JPEG_SUFFIXES | OTHER_IMAGES)
    xmls = _files(export, XML_SUFFIXES)
    if not images or not xmls:
        missing = "image" if not images else ".xml file"
        raise UserError(f"{export}: no {missing} below it: export the data set as Pascal VOC")
    if root.exists():
        raise UserError(f"{root} is there already: choose another folder, or delete it")
    names = _stems([*images, *xmls], export)
    root.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_done(root) as tree:
        reencoded = sum(_place(path, tree / "JPEGImages", names[path]) for path in images)
        for path in xmls:
            _place(path, tree / "Annotations", names[path])
        lists = _folder_lists(xmls, names, export)
        if lists:
            write_image_sets(tree, lists)
        elif (export / "ImageSets/Main").is_dir():
            shutil.copytree(export / "ImageSets/Main", tree / "ImageSets/Main")
    return Arranged(len(images), len(xmls), reencoded, {k: len(v) for k, v in lists.items()})


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _home(path: Path, export: Path) -> tuple[str, ...]:
    """The folders of a file that an image shares with its XML."""
    return tuple(p for p in path.relative_to(export).parent.parts if p.lower() not in KINDS)


def _stems(paths: Sequence[Path], export: Path) -> dict[Path, str]:
    """A stem for each file: its own, or with its folders' names where several have it."""
    homes = defaultdict(set)
    for path in paths:
        homes[path.stem].add(_home(path, export))
    stems = {
        path: "_".join([*(_home(path, export) if len(homes[path.stem]) > 1 else ()), path.stem])
        for path in paths
    }
    # An image and an XML share theirs, two images may not: one would replace the other.
    files = Counter((stem, path.suffix.lower() in XML_SUFFIXES) for path, stem in stems.items())
    for path, stem in stems.items():
        if files[stem, path.suffix.lower() in XML_SUFFIXES] > 1:
            raise UserError(f"{path}: another file is called {stem} too: rename one of them")
    return stems


def _place(path: Path, folder: Path, stem: str) -> bool:
    """Put a file into a folder of the tree; whether it had to be stored anew as JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in OTHER_IMAGES:
        try:
            with Image.open(path) as image:
                # Its pixels as stored, as the boxes are.
                image.convert("RGB").save(folder / f"{stem}.jpg", quality=JPEG_QUALITY)
            return True
        except (OSError, ValueError, Image.DecompressionBombError):
            (folder / f"{stem}.jpg").unlink(missing_ok=True)  # as it is, for the conversion to name
    target = folder / f"{stem}{path.suffix}"
    try:
        os.link(path, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(path, target)
    return False


def _folder_lists(
    xmls: Sequence[Path], names: dict[Path, str], export: Path
) -> dict[str, list[str]]:
    lists = defaultdict(list)
    for path in xmls:
        for part in _home(path, export):
            if part.lower() in SPLIT_FOLDERS:
                lists[SPLIT_FOLDERS[part.lower()]].append(names[path])
                break
    return dict(lists)
