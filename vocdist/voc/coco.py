"""COCO JSON as VOC annotations: COCO's own layout, Roboflow's, CVAT's, Label Studio's."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vocdist.errors import UserError
from vocdist.voc.annotation import SHARE_SLACK
from vocdist.voc.classes import normalise_name
from vocdist.voc.export_files import ExportFiles, ImageIndex, part_named
from vocdist.voc.export_pairs import Entry
from vocdist.voc.export_tree import DrawnBox, Translated

# Of the same images as instances_*.json, with other annotations.
BESIDE_INSTANCES = ("person_keypoints_", "captions_", "panoptic_", "stuff_")


def read_coco(files: ExportFiles) -> Translated | None:
    """Translate the COCO annotations of an export; None where it has none.

    A box `[x, y, w, h]` is in pixels counted from 0. Boxes of crowds become difficult ones; an
    annotation without a box has that of its polygon.

    Raises:
        UserError: A JSON is not as COCO describes it, or two have boxes for one image.
    """
    found = {path: content for path in files.jsons if (content := _coco_of(path)) is not None}
    if not found:
        return None
    translated = Translated("COCO")
    instances = any(path.name.startswith("instances_") for path in found)
    index = ImageIndex(files.images)
    source: dict[Path, Path] = {}
    for path, content in found.items():
        if instances and path.name.startswith(BESIDE_INSTANCES):
            translated.notes.append(f"{path.relative_to(files.folder)}: not taken for boxes")
            continue
        _translate(path, content, files, index, source, translated)
    left = [path for path in files.images if path not in source]
    translated.entries += [Entry(path) for path in left]
    return translated


def _coco_of(path: Path) -> dict[str, Any] | None:
    """What a JSON holds where it is COCO's: lists of images, annotations and categories."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        return None
    return content


def kind_of_json(path: Path) -> str:
    """What a JSON that is not taken seems to be, in words."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "not valid JSON"
    first = content[0] if isinstance(content, list) and content else content
    keys = set(first) if isinstance(first, dict) else set()
    if "shapes" in keys:
        return "labelme's own form: labelme2voc.py, among labelme's examples, makes VOC of it"
    if "_via_img_metadata" in keys or _is_of_via(content):
        return "VIA's own form: choose Export Annotations (COCO format) in its menu Annotation"
    if isinstance(content, list) and (
        ("data" in keys and keys & {"annotations", "completions"})
        or {"annotation_id", "annotator"} & keys
    ):
        return "Label Studio's own form: choose Pascal VOC XML on export"
    if "images" in keys:
        missing = [key for key in ("annotations", "categories") if key not in keys]
        return f"COCO without {' and '.join(missing)}" if missing else "COCO's keys without lists"
    return f"of an unknown kind, with {', '.join(sorted(map(str, keys))[:5])}" if keys else "a list"


def _is_of_via(content: Any) -> bool:
    """Whether it is VIA's export: an entry with `filename` and `regions` for each image."""
    first = next(iter(content.values()), None) if isinstance(content, dict) else None
    return isinstance(first, dict) and {"filename", "regions"} <= first.keys()


def _translate(
    path: Path,
    content: Mapping[str, Any],
    files: ExportFiles,
    index: ImageIndex,
    source: dict[Path, Path],
    translated: Translated,
) -> None:
    names = _category_names(path, content["categories"])
    translated.declared.update(map(normalise_name, names.values()))
    boxes_of = _boxes(path, content["annotations"], names, translated)
    # instances_train2017.json, _annotations.coco.json in the folder train
    part = part_named(path.stem)
    near = [path.parent, *(p for p in _folders_called(part, files) if part), files.folder]
    boxes: dict[Path, list[DrawnBox]] = defaultdict(list)
    records: dict[Path, Mapping[str, Any]] = {}
    missing = []
    for record in content["images"]:
        name = _field(path, record, "file_name", str)
        boxes_here = boxes_of.pop(_field(path, record, "id", int | str), [])
        image = index.find(name, near)
        if image is None:
            missing.append(name)
            continue
        if source.setdefault(image, path) != path:
            raise UserError(
                f"{path}: has boxes for {image}, as {source[image]} has: take one of the two out "
                "of the export"
            )
        records.setdefault(image, record)
        boxes[image] += boxes_here
    for image, record in records.items():
        size = tuple(record.get(key) or 0 for key in ("width", "height"))
        if not all(isinstance(side, int | float) for side in size):
            raise UserError(f"{path}: width and height of {image.name} are no numbers: {size}")
        sides = (int(size[0]), int(size[1]))
        translated.add(Entry(image, part=part), image.name, sides, boxes[image])
    if missing:
        translated.notes.append(
            f"{path.relative_to(files.folder)}: {len(missing):,} of {len(content['images']):,} "
            f"images are not in the export, as {missing[0]}"
        )
    translated.counts["annotations of an image that the JSON does not list: left out"] += sum(
        map(len, boxes_of.values())
    )


def _folders_called(part: str | None, files: ExportFiles) -> list[Path]:
    folders = {path.parent for path in files.images}
    return sorted(folder for folder in folders if part_named(folder.name) == part)


def _category_names(path: Path, categories: Sequence[Any]) -> dict[Any, str]:
    names = {}
    for category in categories:
        name = _field(path, category, "name", str).strip()
        number = _field(path, category, "id", int | str)
        if not name:
            raise UserError(f"{path}: category {number} has a blank name: give it one")
        names[number] = name
    return names


def _boxes(
    path: Path, annotations: Sequence[Any], names: Mapping[Any, str], translated: Translated
) -> dict[Any, list[DrawnBox]]:
    found = defaultdict(list)
    for number, annotation in enumerate(annotations):
        image_id = _field(path, annotation, "image_id", int | str)
        if "category_id" not in annotation:
            translated.counts["annotations without a class: left out"] += 1
            continue
        name = names.get(annotation["category_id"])
        if name is None:
            raise UserError(
                f"{path}: annotation {number} has category_id {annotation['category_id']}, which "
                "is not among its categories: add it there"
            )
        corners = _corners(path, number, annotation, translated)
        if corners is None:
            translated.counts["annotations without a box or polygon: left out"] += 1
            continue
        crowd = bool(annotation.get("iscrowd"))
        translated.counts["boxes of crowds: marked difficult"] += crowd
        found[image_id].append(DrawnBox(name, *corners, difficult=crowd))
    _check_pixels(path, [box for boxes in found.values() for box in boxes])
    return found


def _check_pixels(path: Path, boxes: Sequence[DrawnBox]) -> None:
    """Refuse boxes that are shares of the sides: to whole pixels all would be one pixel.

    Raises:
        UserError: All end within 1, and not all at whole numbers.
    """
    corners = [(box.x0, box.y0, box.x1, box.y1) for box in boxes]
    if corners and all(max(four) <= 1 + SHARE_SLACK for four in corners):
        shares = next((four for four in corners if any(value % 1 for value in four)), None)
        if shares:
            raise UserError(
                f"{path}: its boxes are shares (0 to 1) of the width and height, as "
                f"({', '.join(f'{value:.4g}' for value in shares)}): COCO's are in pixels: export "
                f"it as COCO, or multiply them"
            )


def _corners(
    path: Path, number: int, annotation: Mapping[str, Any], translated: Translated
) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 of an annotation, pixels."""
    box = annotation.get("bbox")
    polygons = annotation.get("segmentation")
    if box:
        x, y, width, height = _numbers(path, number, box, 4)
        return x, y, x + width, y + height
    if isinstance(polygons, list) and any(polygons):
        points = [_numbers(path, number, polygon) for polygon in polygons]
        xs = [value for polygon in points for value in polygon[::2]]
        ys = [value for polygon in points for value in polygon[1::2]]
        translated.counts["boxes made of polygons"] += 1
        return min(xs), min(ys), max(xs), max(ys)
    return None


def _numbers(path: Path, number: int, values: Any, count: int | None = None) -> list[float]:
    if isinstance(values, list) and (len(values) == count if count else len(values) >= 4):
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = [math.nan]
        if all(map(math.isfinite, numbers)):
            return numbers
    wanted = "four numbers x, y, width, height" if count else "pairs of numbers"
    raise UserError(f"{path}: annotation {number} has {values!r:.60} for {wanted}: mend the file")


def _field(path: Path, record: Any, key: str, kind: Any) -> Any:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{path}: expected COCO, found an entry without {key}: {record!r:.80}")
    return value
