"""Pair each annotation with its image, and account for every file that is left out."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import UserError
from vocdist.voc.annotation import Annotation, AnnotationError, parse_annotation
from vocdist.voc.text import composed, printable

XML_SUFFIXES = frozenset({".xml"})
# Whatever browsers, scanners and cameras call a JPEG; its content decides.
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"})
# What a list's lines or an XML's name may end in, besides.
OTHER_IMAGE_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
IMAGE_SUFFIXES = JPEG_SUFFIXES | OTHER_IMAGE_SUFFIXES
KEEP_NEGATIVES = "negatives=true keeps it as an image of nothing"


@dataclass(frozen=True, slots=True)
class VocSample:
    """One image with its annotation; `stem` is the file name that both share."""

    stem: str
    image: Path
    annotation_path: Path
    annotation: Annotation


@dataclass(frozen=True, slots=True)
class FilePair:
    """The names of an annotation in `Annotations` and the image in `JPEGImages` that it is of.

    `stem` is the image's, in Unicode's composed form. `annotation_name` is None for an image that
    is taken without one.
    """

    stem: str
    image_name: str
    annotation_name: str | None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One file that is not part of the data set: `reason` is a slug, `detail` says it in words."""

    path: Path
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Matched:
    """The files of a VOC root by their names: pairs by stem, all other entries, what to report."""

    pairs: list[FilePair]
    left_out: list[LeftOut]
    notes: tuple[str, ...]


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
    matched = match_files(root)
    left_out = matched.left_out
    samples: list[VocSample] = []
    for pair in matched.pairs:
        if pair.annotation_name is None:
            continue  # only where negatives are asked for
        xml = root / "Annotations" / pair.annotation_name
        try:
            annotation = eligible_annotation(xml)
        except AnnotationError as error:
            left_out.append(LeftOut(error.path, error.reason, error.detail))
        else:
            image = root / "JPEGImages" / pair.image_name
            samples.append(VocSample(pair.stem, image, xml, annotation))
    return Pairing(tuple(samples), tuple(sorted(left_out, key=lambda item: item.path)))


def match_files(root: Path, *, follow_links: bool = True, negatives: bool = False) -> Matched:
    """Pair the files of a VOC root by their names.

    Stems are compared in Unicode's composed form. An XML that has no image of its stem is paired
    with the image whose whole name it has (`000.jpg.xml`), or whose stem differs in the case of
    letters alone, where that image has no other; both are noted.

    Every entry of `Annotations` without an image is left out with a reason, and so is every entry
    of `JPEGImages` that no annotation claims: `no_image`, `no_annotation`, `duplicate_annotation`,
    `duplicate_image`, `hidden_file`, `not_xml`, `not_jpeg`, `not_a_file`, and, unless links are
    followed, `link_out_of_tree`. No file is opened but an XML without an image, for its
    `<filename>`.

    Args:
        root: The VOC root.
        follow_links: Take links to files outside the tree.
        negatives: Take images without an XML, unless one that is left out may be theirs.

    Raises:
        UserError: `root` lacks `Annotations` or `JPEGImages`.
    """
    xmls, left_out = _files_by_stem(root, "Annotations", XML_SUFFIXES, "not_xml", follow_links)
    images, others = _files_by_stem(root, "JPEGImages", JPEG_SUFFIXES, "not_jpeg", follow_links)
    # The other half of a pair may be there, and left out for a reason of its own.
    useless = {composed(os.path.splitext(i.path.name)[0]): i for i in (*left_out, *others)}
    left_out += others
    image_of, notes = _images_by_other_names(xmls, images)
    pairs: list[FilePair] = []
    # An image that a left out XML names is no image of nothing.
    named: dict[str, str] = {}
    for stem in sorted(xmls):
        own = image_of.get(stem, stem)
        try:
            pairs.append(_pair(root, own, xmls[stem], images.get(own, []), useless.get(stem)))
        except AnnotationError as error:
            detail = error.detail
            if error.reason == "no_image" and (said := _named_image(error.path, images)):
                named[said] = error.path.name
                detail += (
                    f"; its <filename> names {images[said][0]}, which is there: "
                    "python scripts/make_voc.py pairs them"
                )
            left_out.append(LeftOut(error.path, error.reason, detail))
    for stem in sorted(images.keys() - xmls.keys() - set(image_of.values())):
        hidden = useless.get(stem)
        if negatives and not hidden and stem not in named and len(images[stem]) == 1:
            pairs.append(FilePair(stem, images[stem][0], None))
            continue
        lacking = _lacking(f"no {stem}.xml in Annotations", hidden)
        lacking += f", but {named[stem]} names it in <filename>" if stem in named else ""
        lacking += "" if negatives or hidden or stem in named else f": {KEEP_NEGATIVES}"
        paths = [root / "JPEGImages" / name for name in images[stem]]
        left_out += [LeftOut(path, "no_annotation", lacking) for path in paths]
    return Matched(sorted(pairs, key=lambda pair: pair.stem), left_out, notes)


def without_image_suffix(name: str) -> str:
    """A file name without its ending, where that is one of an image or of an XML."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES | XML_SUFFIXES else name


def _images_by_other_names(
    xmls: Mapping[str, Iterable[str]], images: Mapping[str, Iterable[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """XML stem -> stem of its image, where they differ, and notes that count them."""
    free = images.keys() - xmls.keys()
    lone = sorted(xmls.keys() - images.keys())
    by_whole_name = {stem: s for stem in lone if (s := without_image_suffix(stem)) in free}
    by_case = defaultdict(list)
    for stem in free:
        by_case[stem.casefold()].append(stem)
    by_letters = {
        stem: found[0]
        for stem in lone
        if stem not in by_whole_name and len(found := by_case.get(stem.casefold(), [])) == 1
    }
    kinds = (
        (by_whole_name, "are named after the whole name of their image"),
        (by_letters, "differ from their image's name in the case of letters"),
    )
    image_of: dict[str, str] = {}
    notes = []
    for candidates, words in kinds:
        claims = Counter([*image_of.values(), *candidates.values()])
        sure = {stem: image for stem, image in candidates.items() if claims[image] == 1}
        if sure:
            first = next(iter(sure))
            notes.append(
                f"{len(sure):,} annotations {words}, as {printable(first)}.xml: "
                f"paired with {printable(sure[first])}"
            )
        image_of |= sure
    return image_of, tuple(notes)


def _named_image(xml: Path, stems: Collection[str]) -> str | None:
    """The stem of the image that an XML's `<filename>` names, if that image is there."""
    try:
        said = parse_annotation(xml).filename
    except AnnotationError:
        return None
    name = composed(re.split(r"[\\/]", said)[-1])
    stem = without_image_suffix(name)
    return next((candidate for candidate in (stem, name) if candidate in stems), None)


def eligible_annotation(xml: Path) -> Annotation:
    """Parse an annotation that must hold an object.

    Raises:
        AnnotationError: As `parse_annotation`, `no_objects`, or the reason of the first object
            where none can be used.
    """
    annotation = parse_annotation(xml)
    if not annotation.objects:
        for bad in annotation.bad_objects:
            raise AnnotationError(xml, bad.reason, bad.detail)
        raise AnnotationError(xml, "no_objects", f"holds no <object>: {KEEP_NEGATIVES}")
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
            if suffix.lower() in OTHER_IMAGE_SUFFIXES:
                remedy = ": python scripts/make_voc.py makes JPEGs of other images"
                problem = (other_kind, problem[1] + remedy)
        elif not _is_file(entry):
            problem = ("not_a_file", "a folder, a device or a broken link")
        elif (
            not follow_links and entry.is_symlink() and not _leads_into(folder / entry.name, trees)
        ):
            problem = ("link_out_of_tree", "a link to a file outside: follow_links=true takes it")
        else:
            found[composed(stem)].append(entry.name)
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

    def refused(reason: str, detail: str) -> AnnotationError:
        return AnnotationError(root / "Annotations" / xmls[0], reason, detail)

    # Two files may claim one stem by a different suffix; to choose would be to guess.
    if len(xmls) > 1:
        detail = f"{xmls[1]} has the same stem{_look_equal(xmls)}"
        raise refused("duplicate_annotation", detail)
    if not images:
        lacking = _lacking(f"no {stem}.jpg or {stem}.jpeg to use in JPEGImages", useless)
        raise refused("no_image", lacking)
    if len(images) > 1:
        detail = f"several images have this stem: {' and '.join(images)}{_look_equal(images)}"
        raise refused("duplicate_image", detail)
    return FilePair(stem, images[0], xmls[0])


def _look_equal(names: list[str]) -> str:
    if len(set(map(composed, names))) == len(names):
        return ""
    return " (they look equal: one is in Unicode's composed form, the other decomposed)"
