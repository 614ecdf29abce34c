"""Textured settings for the demo pictures: a wall or sky above the horizon, a ground below it."""

import colorsys
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from demo_data.pen import Hsv

Plane = npt.NDArray[np.float64]  # (h, w), about -1..1


class Texture(NamedTuple):
    """How strongly a surface shows each pattern, in levels of 255."""

    clouds: float = 0  # soft blotches
    grain: float = 0  # noise by the pixel
    columns: float = 0  # upright stripes
    rows: float = 0  # level stripes
    windows: float = 0  # dark panes in rows and columns


class Surface(NamedTuple):
    """Colours that a surface runs through from top to bottom, and its texture."""

    top: Hsv
    bottom: Hsv
    texture: Texture


class Setting(NamedTuple):
    """A place, and the classes that one would look for there."""

    above: Surface
    below: Surface
    classes: tuple[str, ...]


SETTINGS = MappingProxyType(
    {
        "field": Setting(
            above=Surface((205, 0.32, 0.8), (200, 0.14, 0.86), Texture(clouds=16, grain=2)),
            below=Surface((100, 0.26, 0.74), (98, 0.32, 0.62), Texture(clouds=9, grain=8)),
            classes=("aeroplane", "bird", "cow", "dog", "horse", "person", "sheep", "train"),
        ),
        "street": Setting(
            above=Surface((28, 0.14, 0.72), (28, 0.1, 0.8), Texture(windows=24, clouds=5, grain=3)),
            below=Surface((225, 0.05, 0.58), (225, 0.06, 0.48), Texture(clouds=6, grain=7)),
            classes=("bicycle", "bus", "car", "cat", "dog", "motorbike", "person", "train"),
        ),
        "room": Setting(
            above=Surface((44, 0.18, 0.8), (40, 0.2, 0.72), Texture(columns=9, clouds=5, grain=2)),
            below=Surface((30, 0.16, 0.7), (28, 0.2, 0.58), Texture(rows=8, grain=5)),
            classes=(
                *("bottle", "cat", "chair", "diningtable", "dog", "person"),
                *("pottedplant", "sofa", "tvmonitor"),
            ),
        ),
        "shore": Setting(
            above=Surface((215, 0.26, 0.78), (32, 0.2, 0.86), Texture(clouds=12, grain=2)),
            below=Surface((200, 0.3, 0.76), (208, 0.36, 0.62), Texture(rows=8, clouds=6)),
            classes=("aeroplane", "bird", "boat", "bottle", "chair", "person"),
        ),
    }
)


def paint_backdrop(
    setting: Setting, size_wh: tuple[int, int], rng: np.random.Generator
) -> Image.Image:
    """RGB picture of `size_wh` pixels: `setting` with a horizon, hues and patterns of its own."""
    width, height = size_wh
    horizon = round(height * rng.uniform(0.35, 0.6))
    surfaces = (
        _paint_surface(setting.above, (width, horizon), rng),
        _paint_surface(setting.below, (width, height - horizon), rng),
    )
    pixels = np.concatenate(surfaces)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _paint_surface(surface: Surface, size_wh: tuple[int, int], rng: np.random.Generator) -> Plane:
    """Pixels (h, w, 3), not yet clipped to 0..255."""
    width, height = size_wh
    hue_shift = rng.uniform(-10, 10)
    top, bottom = (
        255 * np.array(colorsys.hsv_to_rgb((hue + hue_shift) / 360 % 1, saturation, value))
        for hue, saturation, value in (surface.top, surface.bottom)
    )
    fall = np.linspace(0, 1, height)[:, None, None]
    texture = surface.texture
    pattern = (
        texture.clouds * _clouds(size_wh, rng)
        + texture.grain * rng.standard_normal((height, width), np.float32)
        + texture.columns * _stripes(width, rng)
        + texture.rows * _stripes(height, rng)[:, None]
        - texture.windows * np.outer(_stripes(height, rng) > 0, _stripes(width, rng) > 0)
    )
    return np.asarray(top + fall * (bottom - top) + pattern[..., None])


def _clouds(size_wh: tuple[int, int], rng: np.random.Generator) -> Plane:
    coarse = rng.normal(size=(5, 7)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size_wh, Image.Resampling.BICUBIC), np.float64)


def _stripes(length: int, rng: np.random.Generator) -> Plane:
    period = rng.uniform(9, 26)  # pixels
    phase = (np.arange(length) + rng.uniform(0, period)) / period
    return np.where(phase % 1 < 0.5, 1.0, -1.0)
