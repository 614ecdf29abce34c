"""The image files that places stand for: files, folders, glob patterns and lists of these."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vocdist.errors import UserError
from vocdist.voc.text import printable, read_text_list


@dataclass(frozen=True)
class Unreadable:
    """An image that is not there or is none, and why."""

    name: str
    reason: str


class FoundImages(NamedTuple):
    """Image files, and the lines of lists that stand for none.

    Attributes:
        files: Each once.
        missing: What these lines name, each once; the reason says which list and line.
    """

    files: list[Path]
    missing: list[Unreadable]


def find_images(places: Iterable[str | Path]) -> FoundImages:
    """Files, folders (with those below), glob patterns and `.txt` lists of these -> image files.

    Of a folder, files are taken whose name ends as one of Pillow's formats does; each place's are
    sorted, and what is named twice is there once. A line of a list that leads to no image does not
    keep the others from being found.

    Raises:
        UserError: A place itself is not there, holds no image, or is a list that is no text; or
            there is no image in any of the places.
    """
    found = list(dict.fromkeys(one for place in places for one in _images_of(Path(place), ())))
    files = [one for one in found if isinstance(one, Path)]
    missing = [one for one in found if isinstance(one, Unreadable)]
    if missing and not files:
        raise UserError(f"{first_of(missing)}: no line leads to an image")
    return FoundImages(files, missing)


def all_images(places: Iterable[str | Path]) -> list[Path]:
    """The files of `find_images`, where every line of a list leads to one.

    Raises:
        UserError: As there, or a line leads to no image.
    """
    files, missing = find_images(places)
    if missing:
        raise UserError(f"{first_of(missing)}: correct that line or take it out")
    return files


def first_of(unreadable: Sequence[Unreadable]) -> str:
    """The first with its reason, and how many others there are."""
    others = f" (and {len(unreadable) - 1:,} others)" if len(unreadable) > 1 else ""
    return f"{unreadable[0].name}: {unreadable[0].reason}{others}"


def _images_of(place: Path, lists: tuple[Path, ...]) -> Iterator[Path | Unreadable]:
    """The images of one place; `lists` are those that led to it."""
    if place.is_dir():
        endings = Image.registered_extensions()
        found = [path for path in place.rglob("*") if path.suffix.lower() in endings]
        if not found:
            raise UserError(f"{place}: holds no image that Pillow can open")
        yield from sorted(found)
    elif place.suffix.lower() == ".txt" and place.is_file():
        if place.resolve() in lists:
            raise UserError(f"{place}: a list that leads back to itself: take that line out of it")
        for number, line in _lines_of(place):
            try:
                yield from _images_of(_place_of(line, place.parent), (*lists, place.resolve()))
            except UserError as error:
                yield Unreadable(printable(line), f"{place}, line {number}: {error}")
    elif place.is_file():
        yield place
    elif glob.has_magic(str(place)):
        matches = sorted(glob.glob(str(place.expanduser()), recursive=True))
        if not matches:
            raise UserError(f"{place}: no file has a name of this pattern")
        yield from (Path(match) for match in matches if Path(match).is_file())
    else:
        raise UserError(f"{place}: no such file or folder")


def _lines_of(path: Path) -> list[tuple[int, str]]:
    """(number, what it names) of each line that names anything."""
    lines = []
    for number, line in enumerate(read_text_list(path).splitlines(), start=1):
        name = line.strip()
        # As Windows' "Copy as path" gives it.
        quoted = len(name) > 2 and name[0] == name[-1] and name[0] in "\"'"
        if quoted and not os.path.exists(name):
            name = name[1:-1]
        there = os.path.exists(name) or os.path.exists(path.parent / name)
        if name and (there or not name.startswith("#")):
            lines.append((number, name))
    return lines


def _place_of(line: str, folder: Path) -> Path:
    """What a line of a list in `folder` names, from here or from that folder.

    Where it is in neither, also with Windows' separators as this system's.

    Raises:
        UserError: There is no such place.
    """
    for name in dict.fromkeys((line, line.replace("\\", "/"))):
        for place in (Path(name), folder / name):
            if _is_there(place):
                return place
    looked = "looked for from here, then beside the list"
    # What `read_text_list` makes of bytes that are not UTF-8.
    if any("\udc80" <= letter <= "\udcff" for letter in line):
        looked += "; its letters are not UTF-8: save the list in that encoding"
    raise UserError(f"no such file or folder ({looked})")


def _is_there(place: Path) -> bool:
    # Not `Path.exists`, which raises for a line that is too long to be a name.
    return os.path.exists(place) or (glob.has_magic(str(place)) and bool(glob.glob(str(place))))
