"""YOLO's text labels as VOC annotations: ultralytics' layout, Roboflow's, LabelImg's, CVAT's."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vocdist.errors import UserError
from vocdist.voc.classes import normalise_name
from vocdist.voc.export_files import ExportFiles, home_of
from vocdist.voc.export_pairs import Entry
from vocdist.voc.export_split import read_names
from vocdist.voc.export_tree import DrawnBox, Translated, drawn_size
from vocdist.voc.text import composed

NAME_FILES = frozenset({"classes.txt", "obj.names", "labels.names", "predefined_classes.txt"})
LABEL_LINE = re.compile(r"\s*\d+(\.0+)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}\s*")
# Corners lie a little beside the image where a tool rounded; pixels in place of shares lie far.
LARGEST_SHARE = 1.5
PARTS_OF_YAML = {"train": "train", "val": "val", "valid": "val", "test": "test"}


@dataclass(slots=True)
class DataYaml:
    """What data.yaml says: class names by id, and the folders of each part, as they are written."""

    path: Path
    names: dict[int, str]
    folders: dict[str, list[str]] = field(default_factory=dict)
    keypoints: bool = False


def read_yolo(files: ExportFiles) -> Translated | None:
    """Translate the YOLO labels of an export; None where no text beside its images is one.

    A line is `class x y w h`, centre and sides as shares of the image that is shown; polygons
    (`class x1 y1 x2 y2 …`) become the boxes around them.

    Raises:
        UserError: No file names the classes, a class has no name, a line is no label, or numbers
            are not shares.
    """
    labels = _labels(files)
    if not labels:
        return None
    names, data = _class_names(files, set(labels.values()))
    parts = _parts(files, data)
    translated = Translated("YOLO")
    translated.declared.update(map(normalise_name, names.values()))
    sizes_unknown = []
    for image in files.images:
        label = labels.get(image)
        size = drawn_size(image)
        if size is None:
            sizes_unknown.append(image)
            translated.entries.append(Entry(image))
            continue
        boxes = list(_boxes(label, names, size, data, translated)) if label else []
        translated.counts["images without a label file: taken as images of nothing"] += not label
        translated.add(Entry(image, part=parts.get(image)), image.name, size, boxes)
    orphans = [path for path in label_files(files) if path not in set(labels.values())]
    if orphans:
        translated.notes.append(
            f"{len(orphans):,} label files have no image, as {orphans[0].relative_to(files.folder)}"
        )
    if sizes_unknown:
        translated.notes.append(
            f"{len(sizes_unknown):,} images cannot be read, as {sizes_unknown[0].name}: their "
            "labels are left out"
        )
    if data is not None:
        translated.notes.append(f"class names: {data.path.relative_to(files.folder)}")
    return translated


def label_files(files: ExportFiles) -> list[Path]:
    """Texts whose first line is a label, and empty ones in folders of such."""
    found, empty = [], []
    for path in files.texts:
        if path.suffix.lower() != ".txt" or path.name.lower() in NAME_FILES:
            continue
        first = next(iter(_lines(path)), None)
        if first is None:
            empty.append(path)
        elif LABEL_LINE.fullmatch(first[1]):
            found.append(path)
    folders = {path.parent for path in found}
    return sorted([*found, *(path for path in empty if path.parent in folders)])


def _labels(files: ExportFiles) -> dict[Path, Path]:
    """Image -> its label file: of its stem, beside it or in folders of the same names."""
    by_place: dict[tuple[Path, str], Path] = {}
    by_home: dict[tuple[tuple[str, ...], str], Path] = {}
    for path in label_files(files):
        by_place[path.parent, composed(path.stem)] = path
        by_home[home_of(path, files.folder), composed(path.stem)] = path
    found = {}
    for image in files.images:
        stem = composed(image.stem)
        label = by_place.get((image.parent, stem)) or by_home.get(
            (home_of(image, files.folder), stem)
        )
        if label is not None:
            found[image] = label
    return found


def _boxes(
    label: Path,
    names: dict[int, str],
    size: tuple[int, int],
    data: DataYaml | None,
    translated: Translated,
) -> Iterator[DrawnBox]:
    width, height = size
    for number, line in _lines(label):
        where = f"{label}, line {number}"
        if not LABEL_LINE.fullmatch(line):
            raise UserError(f"{where}: {line[:60]!r} is no label (class x y w h): mend the file")
        first, *rest = line.split()
        name = names.get(int(float(first)))
        if name is None:
            raise UserError(
                f"{where}: class {first}, but {len(names)} names are given: add its name"
            )
        values = [float(value) for value in rest]
        if not all(math.isfinite(value) and abs(value) <= LARGEST_SHARE for value in values[:4]):
            meant = "percent or pixels" if max(values[:4]) <= 100 else "pixels"
            raise UserError(
                f"{where}: {line[:60]!r} has numbers that are no shares of the image's sides "
                f"(0 to 1), but {meant}: export the labels as YOLO"
            )
        if len(values) <= 5 or (data is not None and data.keypoints):
            what = "keypoints: left out" if len(values) > 5 else "confidences: left out"
            translated.counts[what] += len(values) > 4
            x, y, w, h = values[:4]
            x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
        elif len(values) % 2:
            raise UserError(f"{where}: {len(values)} numbers are neither a box nor a polygon")
        else:
            xs, ys = values[::2], values[1::2]
            x0, y0, x1, y1 = min(xs), min(ys), max(xs), max(ys)
            translated.counts["boxes made of polygons"] += 1
        yield DrawnBox(name, x0 * width, y0 * height, x1 * width, y1 * height)


def _lines(path: Path) -> list[tuple[int, str]]:
    text = path.read_bytes().decode("utf-8-sig", "replace")
    return [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _class_names(files: ExportFiles, labels: set[Path]) -> tuple[dict[int, str], DataYaml | None]:
    """Id -> name, of data.yaml, else of a list; they must agree where there are several."""
    yamls = [data for path in files.texts if (data := _data_yaml(path)) is not None]
    lists = [p for p in files.texts if p.name.lower() in NAME_FILES or p.suffix == ".names"]
    found = {data.path: data.names for data in yamls}
    found |= {path: dict(enumerate(_lines_as_names(path))) for path in lists if path not in labels}
    if not found:
        first = min(labels)
        raise UserError(
            f"{first}: is a YOLO label, and no file names the classes: add classes.txt, one name "
            f"a line in the order of their numbers, to {files.folder}"
        )
    (first, names), *others = found.items()
    for path, other in others:
        if other != names:
            raise UserError(
                f"{path}: its class names are not those of {first}: take one of them out"
            )
    return names, yamls[0] if yamls else None


def _lines_as_names(path: Path) -> list[str]:
    # In their places: a blank line or one with # is a class as any other.
    text = path.read_bytes().decode("utf-8-sig", "replace")
    return [line.strip() for line in text.rstrip().splitlines()]


def _data_yaml(path: Path) -> DataYaml | None:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return None
    try:
        content: Any = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(key, int) for key in names):
        return None
    data = DataYaml(path, {key: str(name) for key, name in names.items()})
    data.keypoints = "kpt_shape" in content
    for key, part in PARTS_OF_YAML.items():
        value = content.get(key)
        values = value if isinstance(value, list) else [value]
        data.folders.setdefault(part, [])
        data.folders[part] += [str(each) for each in values if each]
    return data


def _parts(files: ExportFiles, data: DataYaml | None) -> dict[Path, str]:
    """Image -> part, by data.yaml's folders and lists, as far as they are found in the export.

    They may be written for another machine (`../train/images`, `/content/…`): the end counts.
    Images in two of them (val is often train in examples) are left to train alone.
    """
    found: dict[Path, str] = {}
    for part in ("test", "val", "train") if data else ():
        assert data is not None
        for written in data.folders.get(part, ()):
            tail = [word for word in re.split(r"[\\/]+", written) if word not in ("", ".", "..")]
            for image in files.images:
                if _lies_in(image.relative_to(files.folder).parent.parts, tail):
                    found[image] = part
            lists = [path for path in files.texts if tail and path.name == tail[-1]]
            stems = {re.split(r"[\\/]", name)[-1] for path in lists for name in read_names(path)}
            found |= {image: part for image in files.images if image.name in stems}
    return found


def _lies_in(folders: Sequence[str], tail: Sequence[str]) -> bool:
    """Whether folders begin with the longest end of `tail` that they can."""
    for start in range(len(tail)):
        end = list(tail[start:])
        if any(list(folders[i : i + len(end)]) == end for i in range(len(folders))):
            # `images` alone says nothing of the part.
            return len(end) == len(tail) or len(end) > 1 or end != ["images"]
    return False
