"""Pair each annotation with its image, and account for every file that is left out."""

import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import UserError
from vocdist.voc.annotation import Annotation, AnnotationError, parse_annotation

XML_SUFFIXES = frozenset({".xml"})
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg"})


@dataclass(frozen=True, slots=True)
class VocSample:
    """One image with its annotation; `stem` is the file name that both share."""

    stem: str
    image: Path
    annotation_path: Path
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class FilePair:
    """The names of an annotation in `Annotations` and the image in `JPEGImages` that it is of."""

    stem: str
    image_name: str
    annotation_name: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One file that is not part of the data set: `reason` is a slug, `detail` says it in words."""

    path: Path
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Pairing:
    """The eligible samples, sorted by stem, and all else, sorted by path."""

    samples: tuple[VocSample, ...]
    left_out: tuple[LeftOut, ...]

    def reasons(self) -> Counter[str]:
        """Count what was left out, by reason."""
        return Counter(item.reason for item in self.left_out)


def pair_samples(root: Path) -> Pairing:
    """Read every annotation of a VOC root and pair it with the JPEG of the same stem.

    A sample is eligible when its XML can be read and holds at least one `<object>`, of whatever
    class. All other files are left out, with the reasons of `match_files`, those of
    `AnnotationError`, and `no_objects`. Images are not opened here.

    Raises:
        UserError: `root` lacks `Annotations` or `JPEGImages`.
    """
    pairs, left_out = match_files(root)
    samples: list[VocSample] = []
    for pair in pairs:
        xml = root / "Annotations" / pair.annotation_name
        try:
            annotation = eligible_annotation(xml)
        except AnnotationError as error:
            left_out.append(LeftOut(error.path, error.reason, error.detail))
        else:
            image = root / "JPEGImages" / pair.image_name
            samples.append(VocSample(pair.stem, image, xml, annotation))
    return Pairing(tuple(samples), tuple(sorted(left_out, key=lambda item: item.path)))


def match_files(root: Path, *, follow_links: bool = True) -> tuple[list[FilePair], list[LeftOut]]:
    """Pair the files of a VOC root by their names alone: (pairs by stem, all other entries).

    Every entry of `Annotations` without an image is left out with a reason, and so is every entry
    of `JPEGImages` that no annotation claims: `no_image`, `no_annotation`, `duplicate_annotation`,
    `duplicate_image`, `hidden_file`, `not_xml`, `not_jpeg`, `not_a_file`, and, unless links are
    followed, `link_out_of_tree`. No file is opened.

    Raises:
        UserError: `root` lacks `Annotations` or `JPEGImages`.
    """
    xmls, left_out = _files_by_stem(root, "Annotations", XML_SUFFIXES, "not_xml", follow_links)
    images, others = _files_by_stem(root, "JPEGImages", JPEG_SUFFIXES, "not_jpeg", follow_links)
    # The other half of a pair may be there, and left out for a reason of its own.
    useless = {os.path.splitext(item.path.name)[0]: item for item in (*left_out, *others)}
    left_out += others
    pairs: list[FilePair] = []
    for stem in sorted(xmls):
        try:
            pairs.append(_pair(root, stem, xmls[stem], images.get(stem, []), useless.get(stem)))
        except AnnotationError as error:
            left_out.append(LeftOut(error.path, error.reason, error.detail))
    left_out += [
        LeftOut(
            root / "JPEGImages" / name,
            "no_annotation",
            _lacking(f"no {stem}.xml in Annotations", useless.get(stem)),
        )
        for stem in images.keys() - xmls.keys()
        for name in images[stem]
    ]
    return pairs, left_out


def eligible_annotation(xml: Path) -> Annotation:
    """Parse an annotation that must hold an object.

    Raises:
        AnnotationError: As `parse_annotation`, or `no_objects`.
    """
    annotation = parse_annotation(xml)
    if not annotation.objects:
        raise AnnotationError(xml, "no_objects", "holds no <object>")
    return annotation


def _files_by_stem(
    root: Path, name: str, suffixes: frozenset[str], other_kind: str, follow_links: bool
) -> tuple[dict[str, list[str]], list[LeftOut]]:
    """List a folder once: asking the file system for each stem costs more than the parsing."""
    folder = root / name
    found: dict[str, list[str]] = defaultdict(list)
    left_out: list[LeftOut] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is missing: pass a VOC root as source") from error
    # The folder itself may be a link: who made it meant its inside.
    trees = (root.resolve(), folder.resolve())
    wanted = ", ".join(sorted(suffixes))
    for entry in entries:
        stem, suffix = os.path.splitext(entry.name)
        if entry.name.startswith("."):
            # .DS_Store, and the ._name.jpg that macOS packs beside each name.jpg.
            problem = ("hidden_file", "the name starts with a dot")
        elif suffix.lower() not in suffixes:
            problem = (other_kind, f"the name does not end in {wanted}")
        elif not _is_file(entry):
            problem = ("not_a_file", "a folder, a device or a broken link")
        elif (
            not follow_links and entry.is_symlink() and not _leads_into(folder / entry.name, trees)
        ):
            problem = ("link_out_of_tree", "a link to a file outside: follow_links=true takes it")
        else:
            found[stem].append(entry.name)
            continue
        left_out.append(LeftOut(folder / entry.name, *problem))
    return found, left_out


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def _leads_into(link: Path, trees: tuple[Path, ...]) -> bool:
    return any(link.resolve().is_relative_to(tree) for tree in trees)


def _lacking(what: str, useless: LeftOut | None) -> str:
    return f"{what}, but {useless.path.name} ({useless.reason})" if useless else what


def _pair(
    root: Path, stem: str, xmls: list[str], images: list[str], useless: LeftOut | None
) -> FilePair:
    xml = root / "Annotations" / xmls[0]
    # Two files may claim one stem by a different suffix; to choose would be to guess.
    if len(xmls) > 1:
        raise AnnotationError(xml, "duplicate_annotation", f"{xmls[1]} has the same stem")
    if not images:
        lacking = _lacking(f"no {stem}.jpg or {stem}.jpeg to use in JPEGImages", useless)
        raise AnnotationError(xml, "no_image", lacking)
    if len(images) > 1:
        names = " and ".join(images)
        raise AnnotationError(xml, "duplicate_image", f"several images have this stem: {names}")
    return FilePair(stem, images[0], xmls[0])
