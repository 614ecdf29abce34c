"""Write the demo data set: drawn pictures in true VOC layout and XML, for trying everything out.

    root/JPEGImages/demo_000000.jpg        root/ImageSets/Main/trainval.txt   (every picture)
    root/Annotations/demo_000000.xml       root/demo.json                     (what was asked for)

A picture's bytes follow from the seed and its index alone (under one version of Pillow and NumPy).
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from xml.etree import ElementTree

from demo_data.scene import DemoObject, DemoScene, compose_scene
from vocdist.errors import UserError
from vocdist.files.atomic import replaced_when_done

GENERATOR_VERSION = 3  # raise it whenever the same seed draws other pictures

_JPEG_QUALITY = 90
_RECIPE_FILE = "demo.json"


def write_demo_dataset(
    root: Path,
    *,
    images: int,
    seed: int,
    track: Callable[[range], Iterable[int]] = iter,
) -> bool:
    """Make `root` a VOC folder of `images` drawn pictures; True if it had to be written.

    The folder appears whole or not at all. One that already holds this very data set is left as it
    is (False). `track` wraps the picture indices as they are drawn, e.g. in a progress bar.

    Raises:
        UserError: `images` is not positive, or `root` holds anything else.
    """
    if images < 1:
        raise UserError(f"images={images}: a demo data set needs at least 1")
    recipe = {"images": images, "seed": seed, "generator_version": GENERATOR_VERSION}
    if _holds(root, recipe):
        return False
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(
            f"{root} exists and is not the demo data set asked for ({recipe}): "
            "delete it or name another folder"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with replaced_when_done(root) as draft:
        _write_voc_folder(draft, track(range(images)), seed=seed)
        (draft / _RECIPE_FILE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    return True


def _holds(root: Path, recipe: dict[str, int]) -> bool:
    """Whether `root` is complete and was written from `recipe`."""
    try:
        if json.loads((root / _RECIPE_FILE).read_text(encoding="utf-8")) != recipe:
            return False
    except (OSError, ValueError):
        return False
    pictures = {path.stem for path in root.glob("JPEGImages/*.jpg")}
    annotations = {path.stem for path in root.glob("Annotations/*.xml")}
    return pictures == annotations == {_stem(index) for index in range(recipe["images"])}


def _write_voc_folder(root: Path, indices: Iterable[int], *, seed: int) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    stems = []
    for index in indices:
        stem = _stem(index)
        scene = compose_scene(seed=seed, index=index)
        scene.image.save(root / "JPEGImages" / f"{stem}.jpg", quality=_JPEG_QUALITY)
        (root / "Annotations" / f"{stem}.xml").write_bytes(_annotation_xml(stem, scene))
        stems.append(stem)
    listing = "".join(f"{stem}\n" for stem in stems)
    (root / "ImageSets/Main/trainval.txt").write_text(listing, encoding="utf-8")


def _stem(index: int) -> str:
    return f"demo_{index:06d}"


def _annotation_xml(stem: str, scene: DemoScene) -> bytes:
    """The picture's annotation, its elements in the order of VOC2012's files."""
    root = ElementTree.Element("annotation")
    _add(root, "folder", "demo")
    _add(root, "filename", f"{stem}.jpg")
    source = _add(root, "source")
    _add(source, "database", "vocdist demo")
    _add(source, "annotation", "vocdist demo")
    _add(source, "image", "drawn")
    size = _add(root, "size")
    _add(size, "width", scene.image.width)
    _add(size, "height", scene.image.height)
    _add(size, "depth", 3)
    _add(root, "segmented", 0)
    for item in scene.objects:
        _add_object(root, item)
    ElementTree.indent(root, space="\t")
    return ElementTree.tostring(root) + b"\n"


def _add_object(parent: ElementTree.Element, item: DemoObject) -> None:
    element = _add(parent, "object")
    _add(element, "name", item.name)
    _add(element, "pose", item.pose)
    _add(element, "truncated", int(item.truncated))
    _add(element, "occluded", int(item.occluded))
    left, top, right, bottom = item.box
    box = _add(element, "bndbox")
    # VOC counts pixels from 1 and its maxima are the last pixel inside: our half-open ends.
    _add(box, "xmin", left + 1)
    _add(box, "ymin", top + 1)
    _add(box, "xmax", right)
    _add(box, "ymax", bottom)
    _add(element, "difficult", int(item.difficult))


def _add(
    parent: ElementTree.Element, tag: str, value: str | int | None = None
) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag)
    if value is not None:
        child.text = str(value)
    return child
