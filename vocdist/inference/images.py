"""Any images as the batches that an evaluation would make of them."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vocdist.data.batch import Batch, SampleRequest, collate
from vocdist.data.dataset import decode_image
from vocdist.data.transforms import Example
from vocdist.data.workers import usable_cores
from vocdist.errors import UserError
from vocdist.inference.files import all_images
from vocdist.shards.format import Annotations
from vocdist.shards.images import DEEP, bits_a_channel
from vocdist.tasks.task import EvaluationView

# At most this many batches of images wait, opened, for others of their shape.
OPENED_BATCHES = 16

ImageSource = str | Path | Image.Image | np.ndarray | Tensor

_JPEG_START = b"\xff\xd8\xff"
# Greys of more than 8 bits, by Pillow's names, with the value that is white.
_DEEP_GREYS = {"I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I": 65535}

_NO_IMAGE = "an image is a path, a PIL image, an array or a tensor, not {}"


def image_size(source: ImageSource) -> tuple[int, int]:
    """(height, width) in stored pixels; of a file, its header alone is read.

    Raises:
        UserError: It is no image.
    """
    if isinstance(source, str | Path):
        with _reasons(source), Image.open(source) as image:
            return image.height, image.width
    if isinstance(source, Image.Image):
        if not source.height * source.width:
            raise UserError("an image without pixels")
        return source.height, source.width
    height, width = image_pixels(source).shape[1:]
    return height, width


def image_pixels(source: ImageSource) -> Tensor:
    """The image as (3, H, W) uint8 RGB, NHWC in memory.

    Arrays are (H, W, 3) or (H, W), tensors (3, H, W), both uint8. Transparency is dropped, of an
    animation the first frame is taken, greys of 16 bits are scaled to 8; those of 32 are taken for
    greys of 16, or of 8 if none is above 255.

    Raises:
        UserError: It is no image, or not a whole one.
    """
    if isinstance(source, str | Path):
        return _file_pixels(Path(source))
    if isinstance(source, Image.Image):
        with _reasons():
            return _from_pillow(source)
    if isinstance(source, Tensor):
        if source.dtype != torch.uint8 or source.ndim != 3 or not _is_shape(source, channels=0):
            raise UserError(f"a tensor image is uint8 (3, H, W), not {_shape_of(source)}")
        return source.cpu().permute(1, 2, 0).contiguous().permute(2, 0, 1)
    if not isinstance(source, np.ndarray):
        raise UserError(_NO_IMAGE.format(type(source).__name__))
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or not _is_shape(source, channels=2):
        raise UserError(f"an array image is uint8 (H, W, 3) or (H, W), not {_shape_of(source)}")
    colors = source if source.ndim == 3 else np.repeat(source[:, :, None], 3, axis=2)
    return torch.from_numpy(np.array(colors)).permute(2, 0, 1)


def image_name(source: ImageSource, position: int) -> str:
    """The path of a file, else `image 3`."""
    return str(source) if isinstance(source, str | Path) else f"image {position}"


def as_images(images: ImageSource | Iterable[ImageSource]) -> list[ImageSource]:
    """One image or many; paths may be folders, patterns and lists, as for `find_images`.

    Raises:
        UserError: It is none, or a path or the line of a list leads to none.
    """
    if not isinstance(images, str | Path | Image.Image | np.ndarray | Tensor | Iterable):
        raise UserError(_NO_IMAGE.format(type(images).__name__))
    single = isinstance(images, str | Path | Image.Image)
    if isinstance(images, np.ndarray | Tensor) and images.ndim <= 3:
        single = True
    sources: Sequence[ImageSource] = [images] if single else list(images)  # type: ignore
    expanded: list[ImageSource] = []
    for source in sources:
        expanded += all_images([source]) if isinstance(source, str | Path) else [source]
    return expanded


def _file_pixels(path: Path) -> Tensor:
    with _reasons():
        encoded = path.read_bytes()
        if encoded.startswith(_JPEG_START):
            # Training's own decoder: the very same pixels.
            return decode_image(encoded, str(path))
        with Image.open(io.BytesIO(encoded)) as image:
            return _from_pillow(image)


def _from_pillow(image: Image.Image) -> Tensor:
    if image.mode == "F":
        raise UserError(
            "its pixels are floats, of which nobody says what is white: use 8 or 16 bits"
        )
    if image.mode in _DEEP_GREYS:
        # Pillow would cut such values off at 255, not scale them.
        grey = np.asarray(image, dtype=np.float64)
        if image.mode != "I" or grey.max(initial=0) > 255:
            grey *= 255 / _DEEP_GREYS[image.mode]
        image = Image.fromarray(grey.clip(0, 255).round().astype(np.uint8))
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@contextmanager
def _reasons(path: str | Path | None = None) -> Iterator[None]:
    """Turn what Pillow raises for bad files, a dozen unrelated types, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except UnidentifiedImageError:
        # Pillow knows no JPEG of 12 bits, and does not say so.
        encoded = Path(path).read_bytes() if path else b""
        if encoded.startswith(_JPEG_START) and (bits := bits_a_channel(encoded)) > 8:
            raise UserError(DEEP.format(bits)) from None
        raise UserError("not a readable image (of no format that Pillow knows)") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"not a readable image ({reason})") from None


def _is_shape(array: np.ndarray | Tensor, channels: int) -> bool:
    """Whether there are pixels, and three channels on that axis, if there is such an axis."""
    return 0 not in array.shape and (array.ndim <= channels or array.shape[channels] == 3)


def _shape_of(array: np.ndarray | Tensor) -> str:
    scale = "" if array.dtype in (np.uint8, torch.uint8) else ": scale it to 0 to 255"
    return f"{array.dtype} {tuple(array.shape)}{scale}"


@dataclass(frozen=True)
class InputBatch:
    """Some of the images, with what could not be read of them.

    Attributes:
        batch: Ready for the model; its indices are positions in the list of images; None when
            nothing could be read.
        sizes: (height, width) of the stored images of the batch, pixels.
        unreadable: Position -> reason.
    """

    batch: Batch | None
    sizes: list[tuple[int, int]]
    unreadable: dict[int, str]


class _Request(NamedTuple):
    """An image, and the (height, width) of its input; or why it cannot be opened."""

    position: int
    shape: tuple[int, int] | None
    unreadable: str | None = None


class _Input(NamedTuple):
    """What became of a request: an example, or the reason why there is none."""

    position: int
    size_hw: tuple[int, int]
    example: Example | None
    unreadable: str | None = None


def input_batches(
    images: Sequence[ImageSource], view: EvaluationView, *, batch: int, workers: int = 0
) -> Iterator[InputBatch]:
    """Every image once, in batches of at most `batch`; those that cannot be read with a reason.

    Raises:
        UserError: A number that cannot be.
    """
    if batch < 1 or workers < 0:
        raise UserError(f"batch={batch}, workers={workers}: a batch has 1 image or more, workers 0")
    yield from DataLoader(
        _Inputs(images, view),
        batch_sampler=_SameShape(images, view, batch),
        collate_fn=_collate,
        num_workers=min(workers, usable_cores()),
        generator=torch.Generator(),
    )


class _SameShape(Sampler[list[_Request]]):
    """Batches of requests of one shape each; images are opened a few batches ahead of use."""

    def __init__(self, images: Sequence[ImageSource], view: EvaluationView, batch: int) -> None:
        self._images, self._view, self._batch = images, view, batch

    def __iter__(self) -> Iterator[list[_Request]]:
        waiting: dict[tuple[int, int] | None, list[_Request]] = {}
        for position in range(len(self._images)):
            request = self._request(position)
            group = waiting.setdefault(request.shape, [])
            group.append(request)
            if len(group) == self._batch:
                yield waiting.pop(request.shape)
            elif sum(map(len, waiting.values())) > OPENED_BATCHES * self._batch:
                yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
        yield from waiting.values()

    def _request(self, position: int) -> _Request:
        if self._view.padding is None:
            return _Request(position, None)
        try:
            return _Request(position, self._view.shape(image_size(self._images[position])))
        except UserError as error:
            return _Request(position, None, str(error))


class _Inputs(Dataset[_Input]):
    def __init__(self, images: Sequence[ImageSource], view: EvaluationView) -> None:
        self._images = images
        self._view = view

    def __getitem__(self, request: _Request) -> _Input:
        position, shape, unreadable = request
        try:
            if unreadable:
                raise UserError(unreadable)
            pixels = image_pixels(self._images[position])
        except UserError as error:
            return _Input(position, (0, 0), None, str(error))
        height, width = pixels.shape[1:]
        no_boxes = np.zeros((0, 5), np.int32)
        unknown = Annotations(str(position), width, height, no_boxes, np.zeros(0, bool))
        example = self._view.example(pixels, unknown, shape)
        return _Input(position, (height, width), example)


def _collate(inputs: Sequence[_Input]) -> InputBatch:
    readable = [(one, one.example) for one in inputs if one.example is not None]
    items = [(SampleRequest(one.position, epoch=0), example, 0) for one, example in readable]
    return InputBatch(
        collate(items) if items else None,
        [one.size_hw for one, _ in readable],
        {one.position: one.unreadable for one in inputs if one.unreadable is not None},
    )
