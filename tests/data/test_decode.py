import io

import numpy as np
import pytest
import torch
from PIL import Image

from vocdist.data.dataset import decode_image
from vocdist.errors import UserError


def encoded(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


@pytest.fixture
def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 40, dtype=np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (24, 1))] * 3, axis=-1))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg_becomes_rgb(picture: Image.Image, mode: str) -> None:
    data = encoded(picture.convert(mode))
    pixels = decode_image(data, "a")
    assert pixels.shape == (3, 24, 40)
    assert pixels.dtype == torch.uint8
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(image.convert("RGB"), dtype=int)
    assert np.abs(pixels.permute(1, 2, 0).numpy() - expected).mean() < 3


def test_exif_rotation_is_not_applied(picture: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert decode_image(encoded(picture, exif=exif), "a").shape == (3, 24, 40)


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xe0 broken"])
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(UserError, match="sample 42"):
        decode_image(data, "sample 42")
