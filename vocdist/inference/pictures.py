"""Pictures of results, one JPEG per image."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from vocdist.inference.images import image_pixels


class Named(Protocol):
    """A result that says which file it is of."""

    @property
    def name(self) -> str:
        """Path of the file."""
        ...


Result = TypeVar("Result", bound=Named)


def save_pictures(
    results: Sequence[Result], folder: Path, draw: Callable[[Image.Image, Result], Image.Image]
) -> None:
    """Draw each result on its image; files of one name in several folders are told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for result in results:
        stem = name = Path(result.name).stem
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        pixels = image_pixels(result.name).permute(1, 2, 0)
        draw(Image.fromarray(pixels.numpy()), result).save(folder / f"{name}.jpg", quality=88)
