"""Find the VOC root inside whatever folder the user has."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from vocdist.errors import UserError

# <cache>/owner/name -> versions/1/VOC2012_train_val/VOC2012_train_val is the deepest known nesting.
MAX_DEPTH = 4
# These hold files by the ten thousand and never a VOC root: the search does not list them.
LEAF_FOLDERS = frozenset(
    {"Annotations", "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationObject"}
)
# VOC2012_test, VOCtest_06-Nov-2007, VOC2007test; not "latest" or "contest".
TEST_TREE = re.compile(r"(?<![a-z])(voc)?test(?![a-z])")


def find_voc_root(folder: Path) -> Path:
    """Find the folder that holds both `Annotations` (with an .xml in it) and `JPEGImages`.

    `folder` may be that root, or hold it up to `MAX_DEPTH` levels down (VOCdevkit/VOC2007, the
    Kaggle nesting). A test tree is taken only when there is nothing else.

    Raises:
        UserError: The folder does not exist, holds no VOC root, or holds several.
    """
    if not folder.is_dir():
        hint = "unpack it and pass the folder" if folder.is_file() else "check the path"
        raise UserError(f"{folder} is not a folder: {hint}")
    roots = sorted(_roots_below(folder, MAX_DEPTH))
    if not roots:
        raise UserError(
            f"no VOC data set in {folder}: looked {MAX_DEPTH} levels deep for a folder that holds "
            f"both Annotations (with .xml files) and JPEGImages{_near_miss(folder)}; "
            f"pass that folder{_export_hint(folder)}"
        )
    choice = [root for root in roots if not _is_test_tree(root.relative_to(folder))] or roots
    if len(choice) > 1:
        listed = "\n".join(f"  {root}" for root in choice)
        raise UserError(f"{folder} holds {len(choice)} VOC data sets: pass one of\n{listed}")
    return choice[0]


def _roots_below(folder: Path, depth: int) -> Iterator[Path]:
    if _has_xml(folder / "Annotations") and (folder / "JPEGImages").is_dir():
        yield folder
    elif depth > 0:
        for name in _subfolders(folder):
            yield from _roots_below(folder / name, depth - 1)


def _subfolders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [
                entry.name
                for entry in entries
                if entry.is_dir() and entry.name not in LEAF_FOLDERS and entry.name[0] != "."
            ]
    except PermissionError:
        # lost+found on a mounted disk must not stop the search beside it.
        return []


def _has_xml(folder: Path) -> bool:
    """Stop at the first .xml, not after listing all of them."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(".xml") for entry in entries)


def _is_test_tree(relative: Path) -> bool:
    return any(TEST_TREE.search(part.lower()) for part in relative.parts)


def _near_miss(folder: Path) -> str:
    """Say what a folder that is almost a root lacks: the commonest mistake is one level off."""
    if folder.name in LEAF_FOLDERS:
        return f" (this is the inside of one: try {folder.parent})"
    has_images = (folder / "JPEGImages").is_dir()
    if (folder / "Annotations").is_dir() or has_images:
        return " (here, " + ("Annotations has no .xml)" if has_images else "JPEGImages is missing)")
    return ""


def _export_hint(folder: Path) -> str:
    """What to do with an export of another layout, as annotation tools make them."""
    if next(folder.rglob("*.xml"), None) is None:
        return ""
    return (
        f". There are .xml files here: an export of another layout becomes a VOC tree by "
        f"python scripts/make_voc.py {folder} data/mine"
    )
