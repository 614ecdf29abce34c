"""Encoded images to uint8 tensors."""

import io

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from vocdist.errors import UserError


def decode_image(encoded: bytes, name: str) -> Tensor:
    """Decode JPEG bytes to (3, H, W) uint8 RGB, in stored pixels (EXIF rotation is not applied).

    VOC's boxes refer to the stored pixels. `name` goes into the message of the error.

    Raises:
        UserError: The bytes are no image that can be decoded.
    """
    data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    try:
        pixels: Tensor = decode_jpeg(data, mode=ImageReadMode.RGB)
    except RuntimeError:
        # torchvision refuses CMYK and a few odd JPEGs that Pillow reads.
        pixels = _decode_with_pillow(encoded, name)
    return pixels


def _decode_with_pillow(encoded: bytes, name: str) -> Tensor:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{name}: not a readable JPEG ({error}): convert it again") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
