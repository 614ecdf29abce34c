"""A data set of VOC2012's size for benchmarks/gpu.py, from a folder of JPEGs, again and again."""

import itertools
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import simplejpeg

from vocdist.voc.classes import VOC_CLASSES

_OBJECT = (
    "<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
    "<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
)


def jpegs_in(folder: Path) -> list[Path]:
    """All JPEG files below a folder, in the order of their paths."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))


def write_voc_tree(root: Path, sources: Sequence[Path], train: int, val: int) -> None:
    """`train` + `val` images in VOC's layout, each a link to a source, with one to four boxes.

    The boxes are drawn at random, the same each time: what is measured is time.
    """
    rng = random.Random(0)
    folders = {name: root / name for name in ("JPEGImages", "Annotations", "ImageSets/Main")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    sizes = {path: simplejpeg.decode_jpeg_header(path.read_bytes())[:2] for path in sources}
    keys = [f"{number:06d}" for number in range(train + val)]
    for key, source in zip(keys, itertools.cycle(sources), strict=False):
        target = folders["JPEGImages"] / f"{key}.jpg"
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
        height, width = sizes[source]
        boxes = "".join(_drawn(rng, height, width) for _ in range(rng.randint(1, 4)))
        (folders["Annotations"] / f"{key}.xml").write_text(
            f"<annotation><filename>{key}.jpg</filename><size><width>{width}</width>"
            f"<height>{height}</height><depth>3</depth></size>{boxes}</annotation>"
        )
    for name, members in (("train", keys[:train]), ("val", keys[train:])):
        (folders["ImageSets/Main"] / f"{name}.txt").write_text("\n".join(members) + "\n")


def _drawn(rng: random.Random, height: int, width: int) -> str:
    x1, y1 = rng.randint(1, width // 2), rng.randint(1, height // 2)
    return _OBJECT.format(
        name=rng.choice(VOC_CLASSES),
        x1=x1,
        y1=y1,
        x2=rng.randint(x1 + width // 8, width),
        y2=rng.randint(y1 + height // 8, height),
    )
