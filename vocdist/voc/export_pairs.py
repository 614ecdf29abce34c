"""Which XML of an export is of which image, and what the two are called in the new tree."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import UserError
from vocdist.voc.annotation import Annotation
from vocdist.voc.export_files import ImageIndex, home_of, part_named
from vocdist.voc.text import composed


@dataclass(slots=True, eq=False)
class Entry:
    """One image with its annotation; either may be missing.

    Attributes:
        image: The file in the export.
        xml: Its VOC XML in the export.
        text: The VOC XML to write, where the export has its boxes in another form.
        part: The split that the annotation says: `train`, `val`, `test`; None: it says none.
        stem: The name of both in the new tree, once `name_entries` gave it.
    """

    image: Path | None
    xml: Path | None = None
    text: str | None = None
    part: str | None = None
    stem: str = ""

    @property
    def path(self) -> Path:
        """The image, or the XML where there is no image."""
        path = self.image or self.xml
        assert path is not None
        return path


@dataclass(frozen=True, slots=True)
class Paired:
    """The entries of a VOC export, and how those were paired whose names differ.

    Attributes:
        entries: One for each image and for each XML without an image.
        ways: How -> number of pairs, other than by the same stem.
        contradicted: XML files of which `<filename>` names another image than their stem does.
    """

    entries: list[Entry]
    ways: Counter[str]
    contradicted: list[Path]


WHOLE_NAME = "the .xml is called after the whole name of the image (000.jpg.xml)"
LETTER_CASE = "names equal but for their letter case"
BY_FILENAME = "the image is the one that <filename> names"


def _stem(path: Path) -> str:
    return composed(path.stem)


def _name(path: Path) -> str:
    return composed(path.name)


def _any_case(path: Path) -> str:
    return composed(path.stem).casefold()


# How names are compared, best first: what it is called, of an image, of an XML; and whether the
# folders must be the same.
_KEYS: tuple[tuple[str, Callable[[Path], str], Callable[[Path], str], bool], ...] = (
    ("", _stem, _stem, True),
    ("", _stem, _stem, False),
    (WHOLE_NAME, _name, _stem, False),
    (LETTER_CASE, _any_case, _any_case, False),
)


def pair_entries(
    images: Sequence[Path],
    xmls: Sequence[Path],
    annotations: Mapping[Path, Annotation],
    export: Path,
) -> Paired:
    """Pair each XML with one image at most: by its stem, else by its `<filename>`.

    `annotations` holds those that can be read. Of several images with the stem of an XML, that in
    its own folder is meant, else that in folders of the same names (`images/cam`,
    `annotations/cam`), else the one whose folders include the XML's or are among them.
    """
    image_of: dict[Path, Path] = {}
    ways: Counter[str] = Counter()
    places = _Places(images, xmls, export)
    for way, image_key, xml_key, same_folders in _KEYS:
        taken = set(image_of.values())
        by_key = defaultdict(list)
        for path in images:
            if path not in taken:
                by_key[image_key(path)].append(path)
        for xml in xmls:
            candidates = [] if xml in image_of else by_key[xml_key(xml)]
            nearest = places.same if same_folders else places.related
            image = nearest(xml, candidates)
            if image is not None:
                image_of[xml] = image
                ways[way] += 1
    contradicted = _contradicted(images, image_of, annotations)
    by_filename = _by_filename(images, xmls, image_of, annotations)
    ways[BY_FILENAME] += len(by_filename)
    image_of |= by_filename
    xmls_of = defaultdict(list)
    for xml, image in image_of.items():
        xmls_of[image].append(xml)
    entries = []
    for image in images:
        mine = xmls_of[image]
        if len(mine) > 1:
            raise UserError(
                f"{mine[1]}: {mine[0]} is of {image.name} too{_form(*mine[:2])}: take one of them "
                "out of the export"
            )
        entries.append(Entry(image, mine[0] if mine else None))
    entries += [Entry(None, xml) for xml in xmls if xml not in image_of]
    return Paired(entries, Counter({k: n for k, n in ways.items() if k and n}), contradicted)


def name_entries(entries: Iterable[Entry], export: Path) -> None:
    """Give each entry its stem: its own, with its folders' names where several have it.

    Raises:
        UserError: Two files of one folder would have the same name.
    """
    entries = list(entries)
    homes = defaultdict(set)
    for entry in entries:
        homes[composed(entry.path.stem)].add(home_of(entry.path, export))
    for entry in entries:
        stem = composed(entry.path.stem)
        folders = home_of(entry.path, export) if len(homes[stem]) > 1 else ()
        entry.stem = "_".join([*folders, stem])
    shared = Counter(entry.stem for entry in entries)
    for entry in entries:
        if shared[entry.stem] > 1:
            folders = tuple(map(composed, entry.path.relative_to(export).parent.parts))
            entry.stem = "_".join([*folders, composed(entry.path.stem)])
    owner: dict[str, Entry] = {}
    for entry in entries:
        other = owner.setdefault(entry.stem, entry)
        if other is not entry:
            raise UserError(
                f"{entry.path}: another file is called {entry.stem} too, "
                f"{other.path}{_form(entry.path, other.path)}: rename one of them"
            )


def _form(path: Path, other: Path) -> str:
    """Why two names look equal that are not."""
    equal = path.stem != other.stem and composed(path.stem) == composed(other.stem)
    return " (it looks the same: one has letters and accents apart)" if equal else ""


class _Places:
    """Which images lie where an XML's may lie."""

    def __init__(self, images: Sequence[Path], xmls: Sequence[Path], export: Path) -> None:
        self._homes = {path: home_of(path, export) for path in (*images, *xmls)}
        self._of_images = {self._homes[path] for path in images}
        self._of_xmls = {self._homes[path] for path in xmls}

    def same(self, xml: Path, candidates: Sequence[Path]) -> Path | None:
        """The image beside an XML, else one in folders of the same names; two are one too many."""
        beside = [path for path in candidates if path.parent == xml.parent]
        same = [path for path in candidates if self._homes[path] == self._homes[xml]]
        return next(iter(beside or same), None)

    def related(self, xml: Path, candidates: Sequence[Path]) -> Path | None:
        """The one image whose folders include the XML's, or the reverse; else the one there is."""
        home = self._homes[xml]
        same = self.same(xml, candidates)
        if same is not None:
            return same
        related = [
            path
            for path in candidates
            if _includes(self._homes[path], home) or _includes(home, self._homes[path])
        ]
        if related or len(candidates) != 1:
            return related[0] if len(related) == 1 else None
        other = self._homes[candidates[0]]
        # photos/ and boxes/ belong together; cam1/ and cam2/, with images and XML each, do not.
        apart = home not in self._of_images and other not in self._of_xmls
        parts = {next(filter(None, map(part_named, reversed(h))), None) for h in (home, other)}
        return candidates[0] if apart or (None not in parts and len(parts) == 2) else None


def _includes(folders: Sequence[str], some: Sequence[str]) -> bool:
    rest = iter(folders)
    return all(folder in rest for folder in some)


def _by_filename(
    images: Sequence[Path],
    xmls: Sequence[Path],
    image_of: Mapping[Path, Path],
    annotations: Mapping[Path, Annotation],
) -> dict[Path, Path]:
    """XML -> image for those without one, where exactly one `<filename>` names a free image."""
    taken = set(image_of.values())
    free = ImageIndex(path for path in images if path not in taken)
    named = defaultdict(list)
    for xml in xmls:
        said = annotations[xml].filename if xml in annotations else ""
        # The stem of the XML alone was looked for already, where it may lie.
        if xml not in image_of and said and composed(Path(said).stem) != composed(xml.stem):
            image = free.find(said, near=[xml.parent])
            if image is not None:
                named[image].append(xml)
    return {claims[0]: image for image, claims in named.items() if len(claims) == 1}


def _contradicted(
    images: Sequence[Path], image_of: Mapping[Path, Path], annotations: Mapping[Path, Annotation]
) -> list[Path]:
    names = {composed(path.name) for path in images}
    found = []
    for xml, image in image_of.items():
        said = re.split(r"[\\/]", annotations[xml].filename)[-1] if xml in annotations else ""
        if composed(said) in names and composed(said) != composed(image.name):
            found.append(xml)
    return found
