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
    class. Every other entry of `Annotations` is left out with a reason, and so is every entry of
    `JPEGImages` that no annotation claims: those of `AnnotationError`, and `no_image`,
    `no_objects`, `no_annotation`, `duplicate_annotation`, `duplicate_image`, `hidden_file`,
    `not_xml`, `not_jpeg`, `not_a_file`. Images are not opened here.

    Raises:
        UserError: `root` lacks `Annotations` or `JPEGImages`.
    """
    xmls, left_out = _files_by_stem(root / "Annotations", XML_SUFFIXES, "not_xml")
    images, left_out_images = _files_by_stem(root / "JPEGImages", JPEG_SUFFIXES, "not_jpeg")
    left_out += left_out_images
    samples: list[VocSample] = []
    for stem in sorted(xmls):
        try:
            samples.append(_pair(stem, xmls[stem], images.get(stem, [])))
        except AnnotationError as error:
            left_out.append(LeftOut(error.path, error.reason, error.detail))
    left_out += [
        LeftOut(image, "no_annotation", f"no {stem}.xml in Annotations")
        for stem in images.keys() - xmls.keys()
        for image in images[stem]
    ]
    return Pairing(tuple(samples), tuple(sorted(left_out, key=lambda item: item.path)))


def _files_by_stem(
    folder: Path, suffixes: frozenset[str], other_kind: str
) -> tuple[dict[str, list[Path]], list[LeftOut]]:
    """List a folder once: asking the file system for each stem costs more than the parsing."""
    found: dict[str, list[Path]] = defaultdict(list)
    left_out: list[LeftOut] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is missing: pass a VOC root as source") from error
    for entry in entries:
        path = folder / entry.name
        stem, suffix = os.path.splitext(entry.name)
        if entry.name.startswith("."):
            # .DS_Store, and the ._name.jpg that macOS packs beside each name.jpg.
            left_out.append(LeftOut(path, "hidden_file", "the name starts with a dot"))
        elif suffix.lower() not in suffixes:
            wanted = ", ".join(sorted(suffixes))
            left_out.append(LeftOut(path, other_kind, f"the name does not end in {wanted}"))
        elif not entry.is_file():
            left_out.append(LeftOut(path, "not_a_file", "a folder or a broken link"))
        else:
            found[stem].append(path)
    return found, left_out


def _pair(stem: str, xmls: list[Path], images: list[Path]) -> VocSample:
    xml = xmls[0]
    # Two files may claim one stem by a different suffix; to choose would be to guess.
    if len(xmls) > 1:
        raise AnnotationError(xml, "duplicate_annotation", f"{xmls[1].name} has the same stem")
    if not images:
        raise AnnotationError(xml, "no_image", f"no {stem}.jpg or {stem}.jpeg in JPEGImages")
    if len(images) > 1:
        names = " and ".join(image.name for image in images)
        raise AnnotationError(xml, "duplicate_image", f"several images have this stem: {names}")
    annotation = parse_annotation(xml)
    if not annotation.objects:
        raise AnnotationError(xml, "no_objects", "holds no <object>")
    return VocSample(stem, images[0], xml, annotation)
