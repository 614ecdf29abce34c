"""A pen that draws outlined shapes on a transparent picture, in units of a sheet 100 units high."""

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Hsv = tuple[float, float, float]  # hue in degrees, saturation and value in 0..1

_OVERSAMPLING = 2  # drawn this much larger, then averaged down: smooth edges
_MARGIN = 3  # units around the sheet, so that outlines are not cut
_INK = (34, 30, 40)
_INK_WIDTH = 1.9  # units
_HUE_JITTER = 6.0  # degrees, one draw an object
_LIGHT_JITTER = (0.82, 1.06)


class Shape(NamedTuple):
    """A class's drawing; its sheet is `width` units wide and 100 high."""

    draw: "Callable[[Pen], None]"
    width: int


class Pen:
    """One sheet; all coordinates and widths are in sheet units, x to the right and y down."""

    def __init__(
        self, size_wh: tuple[int, int], sheet_width: float, rng: np.random.Generator
    ) -> None:
        """Open a transparent sheet, `size_wh` pixels once finished, with its own hue and light."""
        width, height = size_wh[0] * _OVERSAMPLING, size_wh[1] * _OVERSAMPLING
        self._image = Image.new("RGBA", (width, height))
        self._canvas = ImageDraw.Draw(self._image)
        self._rng = rng
        self._scale_x = width / (sheet_width + 2 * _MARGIN)
        self._scale_y = height / (100 + 2 * _MARGIN)
        self._scale = min(self._scale_x, self._scale_y)
        self._ink = max(1, round(_INK_WIDTH * self._scale))
        self._hue_shift = rng.uniform(-_HUE_JITTER, _HUE_JITTER)
        self._gain = rng.uniform(*_LIGHT_JITTER)

    def choose(self, *options: float) -> float:
        """One of `options`, for drawings that come in several colours."""
        return options[self._rng.integers(len(options))]

    def box(self, xyxy: Sequence[float], hsv: Hsv, radius: float = 0) -> None:
        """Rectangle with corners rounded by `radius`."""
        self._canvas.rounded_rectangle(
            self._pixels(xyxy), radius * self._scale, self._rgb(hsv), _INK, self._ink
        )

    def oval(self, x: float, y: float, rx: float, ry: float, hsv: Hsv) -> None:
        """Ellipse around (x, y)."""
        around = self._pixels((x - rx, y - ry, x + rx, y + ry))
        self._canvas.ellipse(around, self._rgb(hsv), _INK, self._ink)

    def blot(self, x: float, y: float, rx: float, ry: float, hsv: Hsv) -> None:
        """Ellipse without an outline, to join shapes that overlap."""
        self._canvas.ellipse(self._pixels((x - rx, y - ry, x + rx, y + ry)), self._rgb(hsv))

    def ring(self, x: float, y: float, r: float, width: float, hsv: Hsv) -> None:
        """Circle that can be seen through, `width` thick, outer radius `r`."""
        around = self._pixels((x - r, y - r, x + r, y + r))
        self._canvas.ellipse(around, None, self._rgb(hsv), round(width * self._scale))

    def arc(self, x: float, y: float, r: float) -> None:
        """Lower half of a circle, in ink."""
        self._canvas.arc(self._pixels((x - r, y - r, x + r, y + r)), 0, 180, _INK, self._ink)

    def wheel(self, x: float, y: float, r: float, hub: Hsv) -> None:
        """Dark tyre of radius `r` around a coloured hub."""
        self.oval(x, y, r, r, (240, 0.1, 0.24))
        self.oval(x, y, r * 0.5, r * 0.5, hub)

    def poly(self, xy: Sequence[float], hsv: Hsv) -> None:
        """Polygon through x0, y0, x1, y1, …."""
        self._canvas.polygon(self._pixels(xy), self._rgb(hsv), _INK, self._ink)

    def line(self, xy: Sequence[float], width: float, hsv: Hsv) -> None:
        """Open line through x0, y0, x1, y1, …, `width` thick."""
        points, thickness = self._pixels(xy), max(1, round(width * self._scale))
        self._canvas.line(points, _INK, thickness + 2 * self._ink, joint="curve")
        self._canvas.line(points, self._rgb(hsv), thickness, joint="curve")

    def thread(self, xy: Sequence[float], hsv: Hsv) -> None:
        """Thin line without an outline."""
        self._canvas.line(self._pixels(xy), self._rgb(hsv), self._ink)

    def finish(self, angle: float, *, mirrored: bool) -> Image.Image:
        """The sheet as RGBA, mirrored and then turned by `angle` degrees, cut to what is drawn."""
        image = self._image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else self._image
        image = image.reduce(_OVERSAMPLING).rotate(angle, Image.Resampling.BICUBIC, expand=True)
        return image.crop(image.getbbox())

    def _rgb(self, hsv: Hsv) -> tuple[int, int, int]:
        hue, saturation, value = hsv
        hue = (hue + self._hue_shift) / 360 % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, min(value * self._gain, 1))
        return round(red * 255), round(green * 255), round(blue * 255)

    def _pixels(self, xy: Sequence[float]) -> list[tuple[float, float]]:
        return [
            ((x + _MARGIN) * self._scale_x, (y + _MARGIN) * self._scale_y)
            for x, y in zip(xy[::2], xy[1::2], strict=True)
        ]
