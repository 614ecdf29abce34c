from collections.abc import Callable
from pathlib import Path

import pytest

ONE_DOG = """<annotation><filename>a.jpg</filename>
<size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>dog</name><difficult>0</difficult><truncated>1</truncated>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""


@pytest.fixture
def one_dog() -> str:
    """The smallest sensible annotation: one truncated dog at (3, 4)-(30, 40)."""
    return ONE_DOG


@pytest.fixture
def make_root() -> Callable[..., Path]:
    """Write a VOC root with one annotated dog per stem; images are never opened here."""

    def make(folder: Path, stems: tuple[str, ...] = ("a",)) -> Path:
        for name in ("Annotations", "JPEGImages"):
            (folder / name).mkdir(parents=True)
        for stem in stems:
            (folder / "Annotations" / f"{stem}.xml").write_text(ONE_DOG)
            (folder / "JPEGImages" / f"{stem}.jpg").write_bytes(b"\xff\xd8\xff\xd9")
        return folder

    return make
