"""Lay the export of an annotation tool out as a VOC tree: VOC XML, COCO JSON or YOLO's texts.

An image and its XML may lie side by side, in sibling folders (`images/`, `annotations/`), each
anywhere below the export, and in folders that name a split. Boxes are not judged here: the
conversion says what it cannot use. Whatever is left out or changed is in the report.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vocdist.errors import DISK_FULL, UserError
from vocdist.files.atomic import replaced_when_done
from vocdist.voc.annotation import Annotation, AnnotationError, parse_annotation
from vocdist.voc.coco import kind_of_json, read_coco
from vocdist.voc.export_files import ExportFiles, read_export
from vocdist.voc.export_pairs import Entry, name_entries, pair_entries
from vocdist.voc.export_split import Parts, divide
from vocdist.voc.export_tree import ImageStore, Translated, place_file
from vocdist.voc.split import write_image_sets
from vocdist.voc.text import composed
from vocdist.voc.yolo import label_files, read_yolo

NOT_VOC = "not_voc_xml"
# CVAT's own format, one XML for all images, is what is chosen by mistake most often.
CHOOSE_VOC = (
    "if it is CVAT's own, one XML for all images (<annotations>), choose PASCAL VOC on export"
)
YOLO_NOT_TAKEN = "YOLO label files are not taken, as there are annotations in another form"


@dataclass(frozen=True, slots=True)
class Arranged:
    """What went into a tree.

    Attributes:
        images: Number of files.
        annotations: Number of files.
        reencoded: Images that were stored anew as JPEG.
        lists: Number of stems in each list in `ImageSets/Main`.
        classes: The names of all objects, in the order of the alphabet.
        notes: All else that was found, changed or left out, a line each.
    """

    images: int
    annotations: int
    reencoded: int
    lists: dict[str, int]
    classes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """An export that is understood: its entries, class names and what is to be said."""

    entries: list[Entry]
    names: Counter[str]
    notes: list[str]
    read_jsons: bool = False


def arrange(export: Path, root: Path) -> Arranged:
    """Make the VOC tree `root` of an export; files are hard links where the disk allows it.

    Stems that occur in several folders get the folders' names in front. The lists of the export,
    and folders named train, valid (or val) and test, become lists in `ImageSets/Main`; where there
    is a test part but no val, train and val are drawn from what is not test.

    Raises:
        UserError: The export holds no image or no annotation that is understood, or no object;
            its parts contradict each other; an image has no known white; or `root` is there
            already or lies in the export.
    """
    _check_root(export, root)
    files = read_export(export)
    found = _read_annotations(files)
    if root.exists():
        raise UserError(f"{root} is there already: choose another folder, or delete it")
    if not found.names:
        raise UserError(
            f"{export}: {len(found.entries):,} images and annotations, and no object in any of "
            "them: export the data set again, with its boxes"
        )
    name_entries(found.entries, export)
    parts = divide(found.entries, export, files.texts)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with replaced_when_done(root) as tree:
            store = _write(found.entries, parts, files, tree)
    except OSError as error:
        if error.errno in DISK_FULL:
            # Copying, the system may name the file that is read.
            raise OSError(error.errno, error.strerror, str(root)) from error
        raise
    left_out = {item.path for item in store.not_taken}
    return Arranged(
        images=sum(e.image is not None and e.image not in left_out for e in found.entries),
        annotations=sum(e.xml is not None or e.text is not None for e in found.entries),
        reencoded=store.reencoded,
        lists={part: len(stems) for part, stems in parts.lists.items()},
        classes=tuple(sorted(found.names)),
        notes=(
            *found.notes,
            *_notes_of_store(store),
            *_notes_of_files(files, read_jsons=found.read_jsons),
            *parts.notes,
        ),
    )


def _check_root(export: Path, root: Path) -> None:
    """The output lies outside: else the next run takes it for a part of the export.

    Raises:
        UserError: It does not.
    """
    inside, place = export.resolve(), root.resolve()
    if place != inside and place.is_relative_to(inside):
        raise UserError(f"{root} lies inside the export {export}: choose a folder outside it")


def _read_annotations(files: ExportFiles) -> _Found:
    """Entries from VOC XML where there is any, else from COCO, else from YOLO.

    Raises:
        UserError: There is no image, or nothing of these; what is there is named.
    """
    export = files.folder
    if not files.images:
        raise UserError(
            f"{export}: no image below it{_but(files)}: export the data set as Pascal VOC, with "
            "its images"
        )
    annotations: dict[Path, Annotation] = {}
    faults: dict[Path, AnnotationError] = {}
    for path in files.xmls:
        try:
            annotations[path] = parse_annotation(path)
        except AnnotationError as error:
            faults[path] = error
    others = {path: error for path, error in faults.items() if error.reason == NOT_VOC}
    if annotations or len(faults) > len(others):
        return _from_voc(files, annotations, faults)
    for read in (read_coco, read_yolo):
        translated = read(files)
        if translated is not None:
            return _from_other(translated, files)
    for path, other in others.items():
        raise UserError(f"{path}: {other.detail}; {CHOOSE_VOC}")
    raise UserError(
        f"{export}: no .xml file below it{_but(files)}: export the data set as Pascal VOC (COCO "
        "JSON and YOLO labels are read too)"
    )


def _from_voc(
    files: ExportFiles,
    annotations: dict[Path, Annotation],
    faults: dict[Path, AnnotationError],
) -> _Found:
    others = {path: error for path, error in faults.items() if error.reason == NOT_VOC}
    broken = [path for path in faults if path not in others]
    if not annotations:
        raise UserError(f"none of {len(faults):,} XML files can be used: {faults[broken[0]]}")
    names = Counter(item.name for each in annotations.values() for item in each.objects)
    xmls = [path for path in files.xmls if path not in others]
    paired = pair_entries(files.images, xmls, annotations, files.folder)
    notes = [f"{count:,} pairs: {way}" for way, count in paired.ways.items()]
    if paired.contradicted:
        notes.append(
            f"{len(paired.contradicted):,} .xml files name another image in <filename> than their "
            f"own name does, as {_short(paired.contradicted[0], files)}: their own name decides"
        )
    alone = [e.path for e in paired.entries if e.image is None]
    bare = [e.path for e in paired.entries if e.image is not None and e.xml is None]
    notes += _some(alone, files, ".xml files have no image")
    notes += _some(bare, files, "images have no .xml")
    notes += _some(label_files(files), files, YOLO_NOT_TAKEN)
    if broken:
        notes.append(f"{len(broken):,} .xml files cannot be used, as {faults[broken[0]]}")
    if others:
        path, error = next(iter(others.items()))
        notes.append(
            f"{len(others):,} .xml files are not taken: {_short(path, files)} {error.detail}"
        )
    return _Found(paired.entries, names, notes)


def _from_other(translated: Translated, files: ExportFiles) -> _Found:
    bare = [entry.path for entry in translated.entries if entry.text is None]
    labels = [] if translated.format == "YOLO" else label_files(files)
    notes = [*translated.report(), *_some(bare, files, "images have no annotation")]
    notes += _some(labels, files, YOLO_NOT_TAKEN)
    return _Found(translated.entries, translated.names, notes, translated.format == "COCO")


def _write(entries: Sequence[Entry], parts: Parts, files: ExportFiles, tree: Path) -> ImageStore:
    for name in ("JPEGImages", "Annotations"):
        (tree / name).mkdir(parents=True)
    store = ImageStore(tree / "JPEGImages")
    for entry in entries:
        # Of an image that is not taken the XML stays, for the conversion to name.
        if entry.image is not None and not store.place(entry.image, entry.stem):
            for stems in parts.lists.values():
                if entry.stem in stems:
                    stems.remove(entry.stem)
        target = tree / "Annotations" / f"{entry.stem}.xml"
        if entry.xml is not None:
            place_file(entry.xml, target)
        elif entry.text is not None:
            target.write_text(entry.text, encoding="utf-8")
    store.check_deep_images()
    if parts.lists:
        write_image_sets(tree, parts.lists)
    for path in _other_lists(files, parts):
        target = tree / "ImageSets/Main" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(path, target)
    return store


def _other_lists(files: ExportFiles, parts: Parts) -> Iterator[Path]:
    """Lists of `ImageSets/Main` that name no part, as `default.txt`: copied as they are."""
    for path in files.texts:
        main = tuple(part.lower() for part in path.parent.parts[-2:]) == ("imagesets", "main")
        if main and path not in parts.lists_read and composed(path.stem).lower() not in parts.lists:
            yield path


def _notes_of_store(store: ImageStore) -> Iterator[str]:
    for kind, count in store.misnamed.items():
        if count:
            how = "taken as they are, as .jpg" if kind == "JPEG" else "stored anew as JPEG"
            yield f"{count:,} files are {kind} under another suffix: {how}"
    for mode, count in store.scaled.items():
        white = "1" if mode == "F" else "65535"
        yield (
            f"{count:,} images of mode {mode} were scaled to 8 bits, 0 to {white} becoming 0 to "
            f"255; the lightest value is {store.lightest[mode][0]:.6g}"
        )
    if store.deep_colors:
        yield (
            f"{store.deep_colors:,} images of 16 bits a colour were scaled to 8, 0 to 65535 "
            "becoming 0 to 255"
        )
    if store.transparent:
        yield f"{store.transparent:,} images lost their transparency, their colours stayed"
    if store.unreadable:
        yield (
            f"{len(store.unreadable):,} files are no image that can be read, as "
            f"{store.unreadable[0].name}: placed as they are, the conversion leaves them out"
        )
    if store.not_taken:
        first = store.not_taken[0]
        yield (
            f"{len(store.not_taken):,} images of several frames were left out, as "
            f"{first.path.name} ({first.why}): store the frame that was labelled as a file"
        )


def _notes_of_files(files: ExportFiles, *, read_jsons: bool) -> Iterator[str]:
    if files.masks:
        folders = ", ".join(f"{name} ({count:,})" for name, count in sorted(files.masks.items()))
        yield f"{files.masks.total():,} masks and drawings are no photographs: {folders}"
    others = files.others + Counter({".json": 0 if read_jsons else len(files.jsons)})
    if others:
        yield "not taken: " + ", ".join(f"{n:,} {suffix}" for suffix, n in others.most_common())
    for links, what in (
        (files.broken_links, "links lead nowhere"),
        (files.links_above, "links lead to a folder above the export: not entered"),
    ):
        yield from _some(links, files, what)


def _but(files: ExportFiles) -> str:
    """What an export holds in place of images or annotations."""
    jsons = Counter[str]()
    if files.jsons:
        first = files.jsons[0]
        jsons[f".json (as {_short(first, files)}: {kind_of_json(first)})"] = len(files.jsons)
    texts = Counter(path.suffix.lower() for path in files.texts)
    found = jsons + texts + files.others
    links = [f"{len(files.broken_links):,} links that lead nowhere"] if files.broken_links else []
    above = [f"a link to a folder above, {p.name}" for p in files.links_above[:1]]
    masks = [f"{files.masks.total():,} masks"] if files.masks else []
    kinds = [f"{count:,} {suffix}" for suffix, count in found.most_common()]
    listed = ", ".join([*kinds, *links, *above, *masks])
    return f", but {listed}" if listed else ""


def _some(paths: Sequence[Path], files: ExportFiles, what: str) -> list[str]:
    return [f"{len(paths):,} {what}, as {_short(paths[0], files)}"] if paths else []


def _short(path: Path, files: ExportFiles) -> str:
    return str(path.relative_to(files.folder))
