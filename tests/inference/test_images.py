import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vocdist.config import ClassifierConfig, RpnConfig
from vocdist.data.dataset import decode_image
from vocdist.errors import UserError
from vocdist.inference.images import (
    as_images,
    image_pixels,
    image_size,
    input_batches,
)
from vocdist.tasks.task import evaluation_view


@pytest.fixture
def photo() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_a_jpeg_has_the_pixels_that_training_sees(photo: Image.Image, tmp_path: Path) -> None:
    path = saved(photo, tmp_path / "a.jpg", quality=80)
    assert torch.equal(image_pixels(path), decode_image(path.read_bytes(), "a"))
    assert image_size(path) == (24, 40)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "no_ending"])
def test_lossless_formats_give_their_pixels(photo: Image.Image, tmp_path: Path, name: str) -> None:
    path = saved(photo, tmp_path / name, format="PNG" if name == "no_ending" else None)
    expected = torch.from_numpy(np.asarray(photo).copy()).permute(2, 0, 1)
    assert torch.equal(image_pixels(path), expected)


def test_pillow_images_arrays_and_tensors_are_one(photo: Image.Image) -> None:
    array = np.asarray(photo)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for source in (photo, array, tensor, array[:, ::-1][:, ::-1]):
        assert torch.equal(image_pixels(source), tensor)
        assert image_size(source) == (24, 40)
    grey = image_pixels(array[:, :, 0])
    assert grey.shape == (3, 24, 40) and torch.equal(grey[0], grey[2])


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        torch.zeros(4, 4, 3),
        torch.zeros(3, 4, 0, dtype=torch.uint8),
    ],
)
def test_other_arrays_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(UserError, match="image is uint8"):
        image_pixels(bad)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(photo: Image.Image, tmp_path: Path, mode: str) -> None:
    path = saved(photo.convert(mode), tmp_path / ("a.tiff" if mode == "CMYK" else "a.png"))
    assert image_pixels(path).shape == (3, 24, 40)
    expected = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(image_pixels(path).permute(1, 2, 0).numpy(), expected)


def test_printers_jpegs_are_read(photo: Image.Image, tmp_path: Path) -> None:
    path = saved(photo.convert("CMYK"), tmp_path / "a.jpg")
    assert image_pixels(path).shape == (3, 24, 40)


def test_deep_greys_are_scaled_and_not_cut_off(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "deep.png")
    assert image_pixels(path)[0, 0].tolist() == [0, 1, 128, 255]


def test_rotation_is_left_as_in_training(photo: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = saved(photo, tmp_path / "a.jpg", exif=exif)
    assert image_size(path) == image_pixels(path).shape[1:] == (24, 40)


def test_bad_files_say_why(photo: Image.Image, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    half = tmp_path / "half.png"
    half.write_bytes(buffer.getvalue()[:200])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    for path in (half, text, tmp_path / "none.jpg"):
        with pytest.raises(UserError, match="not a readable image"):
            image_pixels(path)


def test_what_is_no_image_at_all_is_named() -> None:
    with pytest.raises(UserError, match="an image is a path, .* not NoneType"):
        as_images(None)
    with pytest.raises(UserError, match="an image is a path, .* not int"):
        image_pixels(7)
    with pytest.raises(UserError, match="without pixels"):
        image_size(Image.new("RGB", (0, 4)))


def test_greys_of_32_bits_are_not_made_black(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its pixels are floats.* use 8 or 16 bits"):
        image_pixels(saved(Image.new("F", (2, 2), 1.0), tmp_path / "a.tiff"))
    for values, expected in (([0, 128, 255], [0, 128, 255]), ([0, 257, 65535], [0, 1, 255])):
        image = Image.fromarray(np.array([values], dtype=np.int32))
        assert image.mode == "I" and image_pixels(image)[0, 0].tolist() == expected


class Noted(list[Path]):
    """A list of images that notes which of them were asked for."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__(paths)
        self.asked: set[int] = set()

    def __getitem__(self, index: int) -> Path:
        self.asked.add(index)
        return super().__getitem__(index)


def test_results_begin_before_all_images_of_a_folder_were_opened(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    images = Noted([tmp_path / "a.png"] * 100)
    for view in (
        evaluation_view(RpnConfig(), classes=3),
        evaluation_view(ClassifierConfig(), classes=3),
    ):
        images.asked.clear()
        batches = input_batches(images, view, batch=4)
        first = next(batches)
        assert first.batch is not None and first.batch.indices.tolist() == [0, 1, 2, 3]
        assert first.sizes == [(48, 64)] * 4 and len(images.asked) < 20
        assert sum(len(one.sizes) for one in batches) == 96
