"""Images as users have them (files of any format, PIL images, arrays) as uint8 tensors.

EXIF rotation is not applied, here as in training: results refer to the pixels as they are stored.
"""

import glob
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vocdist.data.decode import decode_image
from vocdist.errors import UserError

ImageSource = str | Path | Image.Image | np.ndarray | Tensor

_JPEG_START = b"\xff\xd8\xff"
# Greys of more than 8 bits, by Pillow's names, with the value that is white.
_DEEP_GREYS = {"I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I": 65535}


def find_images(places: Iterable[str | Path]) -> list[Path]:
    """Files, folders (with those below), glob patterns and `.txt` lists of these -> image files.

    Of a folder, files are taken whose name ends as one of Pillow's formats does; each place's are
    sorted, and what is named twice is there once.

    Raises:
        UserError: A place is not there, or holds no image.
    """
    found = [path for place in places for path in _images_of(Path(place))]
    return list(dict.fromkeys(found))


def image_size(source: ImageSource) -> tuple[int, int]:
    """(height, width) in stored pixels; of a file, its header alone is read.

    Raises:
        UserError: It is no image.
    """
    if isinstance(source, str | Path):
        with _reasons(), Image.open(source) as image:
            return image.height, image.width
    if isinstance(source, Image.Image):
        return source.height, source.width
    height, width = image_pixels(source).shape[1:]
    return height, width


def image_pixels(source: ImageSource) -> Tensor:
    """The image as (3, H, W) uint8 RGB, NHWC in memory.

    Arrays are (H, W, 3) or (H, W), tensors (3, H, W), both uint8. Transparency is dropped, of an
    animation the first frame is taken, greys of 16 bits are scaled to 8.

    Raises:
        UserError: It is no image, or not a whole one.
    """
    if isinstance(source, str | Path):
        return _file_pixels(Path(source))
    if isinstance(source, Image.Image):
        with _reasons():
            return _from_pillow(source)
    if isinstance(source, Tensor):
        if source.dtype != torch.uint8 or source.ndim != 3 or source.shape[0] != 3:
            raise UserError(f"a tensor image is uint8 (3, H, W), not {_shape_of(source)}")
        return source.cpu().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,)):
        raise UserError(f"an array image is uint8 (H, W, 3) or (H, W), not {_shape_of(source)}")
    colors = source if source.ndim == 3 else np.repeat(source[:, :, None], 3, axis=2)
    return torch.from_numpy(np.array(colors)).permute(2, 0, 1)


def image_name(source: ImageSource, position: int) -> str:
    """The path of a file, else `image 3`."""
    return str(source) if isinstance(source, str | Path) else f"image {position}"


def as_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """One image or many; paths may be folders and patterns, as for `find_images`."""
    single = isinstance(images, str | Path | Image.Image)
    if isinstance(images, np.ndarray | Tensor) and images.ndim <= 3:
        single = True
    sources: Sequence[ImageSource] = [images] if single else list(images)  # type: ignore
    expanded: list[ImageSource] = []
    for source in sources:
        expanded += find_images([source]) if isinstance(source, str | Path) else [source]
    return expanded


def _images_of(place: Path) -> Iterator[Path]:
    if place.is_dir():
        endings = Image.registered_extensions()
        found = [path for path in place.rglob("*") if path.suffix.lower() in endings]
        if not found:
            raise UserError(f"{place}: holds no image that Pillow can open")
        yield from sorted(found)
    elif place.suffix == ".txt" and place.is_file():
        lines = place.read_text(encoding="utf-8").splitlines()
        yield from find_images(line.strip() for line in lines if line.strip())
    elif place.is_file():
        yield place
    elif glob.has_magic(str(place)):
        matches = sorted(glob.glob(str(place.expanduser()), recursive=True))
        if not matches:
            raise UserError(f"{place}: no file has a name of this pattern")
        yield from (Path(match) for match in matches if Path(match).is_file())
    else:
        raise UserError(f"{place}: no such file or folder")


def _file_pixels(path: Path) -> Tensor:
    with _reasons():
        encoded = path.read_bytes()
        if encoded.startswith(_JPEG_START):
            # Training's own decoder: the very same pixels.
            return decode_image(encoded, str(path))
        with Image.open(io.BytesIO(encoded)) as image:
            return _from_pillow(image)


def _from_pillow(image: Image.Image) -> Tensor:
    if image.mode in _DEEP_GREYS:
        # Pillow would cut such values off at 255, not scale them.
        grey = np.asarray(image, dtype=np.float64) * (255 / _DEEP_GREYS[image.mode])
        image = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@contextmanager
def _reasons() -> Iterator[None]:
    """Turn what Pillow raises for bad files, a dozen unrelated types, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"not a readable image ({reason})") from None


def _shape_of(array: np.ndarray | Tensor) -> str:
    return f"{array.dtype} {tuple(array.shape)}"
