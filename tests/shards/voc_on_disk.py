"""Small VOC data sets as files, for the tests of this folder."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from vocdist.voc.classes import VOC_CLASSES

OBJECT = """<object><name>{}</name><truncated>1</truncated><difficult>{}</difficult><bndbox>
<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def jpeg(width: int, height: int, seed: int = 0, mode: str = "RGB", **options: object) -> bytes:
    """A photograph of smooth noise: some kilobytes that do not compress to the same size."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, bands), dtype=np.uint8)
    image = Image.fromarray(pixels.squeeze(), "RGB" if mode == "CMYK" and bands == 3 else None)
    stream = io.BytesIO()
    image.convert(mode).resize((width, height)).save(stream, "JPEG", **options)
    return stream.getvalue()


def xml(objects: list[tuple[object, ...]], size: tuple[int, int] | None = (64, 48)) -> str:
    """An annotation; an object is (name, difficult, xmin, ymin, xmax, ymax)."""
    stated = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    body = "".join(OBJECT.format(*item) for item in objects)
    return f"<annotation><filename>x.jpg</filename>{stated}{body}</annotation>"


class VocRoot:
    """A VOC root on disk that a test fills."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("Annotations", "JPEGImages"):
            (path / name).mkdir(parents=True)

    def add(self, stem: str, annotation: str | bytes | None, image: bytes | None) -> None:
        if annotation is not None:
            content = annotation if isinstance(annotation, bytes) else annotation.encode()
            (self.path / "Annotations" / f"{stem}.xml").write_bytes(content)
        if image is not None:
            (self.path / "JPEGImages" / f"{stem}.jpg").write_bytes(image)

    def fill(self, count: int, first: int = 0) -> "VocRoot":
        """Good samples of one to three objects, in both orientations."""
        for number in range(first, first + count):
            width, height = ((64, 48), (48, 64))[number % 2]
            rng = random.Random(number)
            objects = []
            for _ in range(rng.randint(1, 3)):
                xmin, ymin = rng.randint(1, width - 20), rng.randint(1, height - 20)
                box = (xmin, ymin, xmin + rng.randint(2, 20), ymin + rng.randint(2, 20))
                objects.append((rng.choice(VOC_CLASSES), rng.randint(0, 1), *box))
            image = jpeg(width, height, number)
            self.add(f"2007_{number:06d}", xml(objects, (width, height)), image)
        return self
