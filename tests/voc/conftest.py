import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from annotations import ONE_DOG
from PIL import Image


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


@pytest.fixture
def draw() -> Callable[..., Path]:
    """Write a 50 x 40 image, noise of its own for each path; its suffix or `kind` is the format."""

    def write(path: Path, kind: str | None = None, size: tuple[int, int] = (50, 40)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(zlib.crc32(str(path.name).encode()))
        pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, kind)
        return path

    return write


@pytest.fixture
def add_pair(draw: Callable[..., Path]) -> Callable[..., None]:
    """Write an image and an annotation of one dog, which may lie and be called as they like."""

    def add(image: Path, xml: Path | None = None, filename: str | None = None) -> None:
        kind = None if image.suffix.lower() in (".jpg", ".png", ".tif", ".webp") else "JPEG"
        draw(image, kind)
        xml = xml or image.with_suffix(".xml")
        xml.parent.mkdir(parents=True, exist_ok=True)
        xml.write_text(ONE_DOG.replace("a.jpg", filename or image.name))

    return add


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(name="names")
def names_fixture() -> Callable[[Path], list[str]]:
    return names
