"""Compose one demo picture: a textured setting, a few objects, and boxes by VOC's own rules.

A box holds the pixels of an object that can be seen, after the picture's border and later objects
have cut it. The flags follow the VOC annotation guidelines, measured on the pixels: `truncated`,
more than 15 % of the object lies outside its box; `occluded`, more than 5 % of the object inside
its box is covered; `difficult`, very small or mostly hidden.
"""

from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from demo_data.animals import ANIMALS
from demo_data.backdrop import SETTINGS, paint_backdrop
from demo_data.indoor import INDOOR
from demo_data.pen import Pen
from demo_data.vehicles import VEHICLES
from vocdist.voc.classes import VOC_CLASSES

SHAPES = MappingProxyType({**ANIMALS, **INDOOR, **VEHICLES})
SIZES_WH = ((256, 208), (256, 208), (256, 192), (208, 256), (192, 256))

_OBJECT_COUNT_ODDS = (0.22, 0.33, 0.25, 0.13, 0.07)  # for 1, 2, … 5 objects
_IN_SETTING = 0.8  # chance that a further object suits the setting; else it is any class
_PERSON_ODDS = 4.0  # people weigh as much as this many other classes, as in VOC
_RELATIVE_SIZE = (0.32, 0.8)  # sqrt(width * height) of an object / the picture's short side
_MAX_TILT = 9.0  # degrees
_TRIES = 12  # places tried for an object before it is left out
_MIN_VISIBLE = 0.45  # an object never loses more than the rest of its pixels
_FLYING = ("aeroplane", "bird")
_FLYING_BOTTOMS = (0.3, 0.75)  # lower end of an object / the picture's height
_SIDEWAYS_SPREAD = 0.22  # of an object's middle around the picture's / its width
_STANDING_BOTTOMS = (0.55, 1.1)
_TRUNCATED_SHARE = 0.15  # of the object's pixels, outside its box
_OCCLUDED_SHARE = 0.05  # of the object's pixels in its box, covered
_NOISE = 3.0  # standard deviation, levels of 255
_DIFFICULT_SHARE = 0.55  # of the object's pixels, all that can be seen
_DIFFICULT_SIDE = 20  # pixels, the box's shorter side
_FRONTAL = ("bottle", "cat", "chair", "diningtable", "dog", "person", "pottedplant", "sofa")

Pose = Literal["Left", "Right", "Frontal"]


class DemoObject(NamedTuple):
    """One annotated object; `box` is (xmin, ymin, xmax, ymax) in pixels, half-open, from 0."""

    name: str
    pose: Pose
    truncated: bool
    occluded: bool
    difficult: bool
    box: tuple[int, int, int, int]


class DemoScene(NamedTuple):
    """One finished picture (RGB) and its objects in painting order."""

    image: Image.Image
    objects: list[DemoObject]


class _Sprite(NamedTuple):
    name: str
    pose: Pose
    image: Image.Image  # RGBA, cut to what is drawn
    mask: Image.Image  # L, 255 where a pixel counts as the object, else 0


class _Placed(NamedTuple):
    sprite: _Sprite
    spot: tuple[int, int]  # left, top in the picture; may be negative


def compose_scene(*, seed: int, index: int) -> DemoScene:
    """Picture `index` of the data set `seed`; no other picture bears on it.

    Its first object is of class `index % 20`, so every class comes up at least once in 20 pictures.
    """
    rng = np.random.default_rng([seed, index])
    lead = VOC_CLASSES[index % len(VOC_CLASSES)]
    suited = [name for name, setting in SETTINGS.items() if lead in setting.classes]
    setting = SETTINGS[suited[rng.integers(len(suited))]]
    size_wh = SIZES_WH[rng.integers(len(SIZES_WH))]

    image = paint_backdrop(setting, size_wh, rng)
    owner = Image.new("L", size_wh)  # which object each pixel shows: 1, 2, …, or 0 for none
    placed: list[_Placed] = []
    for name in [lead, *_companions(setting.classes, rng)]:
        sprite = _draw_sprite(name, min(size_wh), rng)
        spot = _find_spot(sprite, owner, placed, rng)
        if spot is not None:
            image.paste(sprite.image, spot, sprite.image)
            placed.append(_Placed(sprite, spot))
            owner.paste(len(placed), spot, sprite.mask)
    objects = [_annotate(item, owner, number) for number, item in enumerate(placed, start=1)]
    return DemoScene(image=_photograph(image, rng), objects=objects)


def _companions(suited: tuple[str, ...], rng: np.random.Generator) -> list[str]:
    names = []
    for _ in range(rng.choice(len(_OBJECT_COUNT_ODDS), p=_OBJECT_COUNT_ODDS)):
        pool = suited if rng.random() < _IN_SETTING else VOC_CLASSES
        odds = np.array([_PERSON_ODDS if name == "person" else 1.0 for name in pool])
        names.append(pool[rng.choice(len(pool), p=odds / odds.sum())])
    return names


def _draw_sprite(name: str, short_side: int, rng: np.random.Generator) -> _Sprite:
    shape = SHAPES[name]
    side = short_side * np.exp(rng.uniform(*np.log(_RELATIVE_SIZE)))
    stretch = np.exp(rng.normal(0, 0.08))
    slim = np.sqrt(shape.width / 100) * stretch
    size_wh = (max(12, round(side * slim)), max(12, round(side / slim)))
    pen = Pen(size_wh, shape.width, rng)
    shape.draw(pen)
    mirrored = bool(rng.random() < 0.5)
    image = pen.finish(rng.uniform(-_MAX_TILT, _MAX_TILT), mirrored=mirrored)
    pose: Pose = "Frontal" if name in _FRONTAL else "Left" if mirrored else "Right"
    mask = image.getchannel("A").point([255 * (alpha > 127) for alpha in range(256)])
    return _Sprite(name, pose, image, mask)


def _find_spot(
    sprite: _Sprite, owner: Image.Image, placed: list[_Placed], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Left and top for `sprite` so that it and all before it stay visible enough, or None."""
    bottoms = _FLYING_BOTTOMS if sprite.name in _FLYING else _STANDING_BOTTOMS
    areas = [_area(item.sprite.mask) for item in placed] + [_area(sprite.mask)]
    for _ in range(_TRIES):
        left = round(rng.normal(0.5, _SIDEWAYS_SPREAD) * owner.width - sprite.mask.width / 2)
        top = round(rng.uniform(*bottoms) * owner.height - sprite.mask.height)
        trial = owner.copy()
        trial.paste(len(areas), (left, top), sprite.mask)
        seen = trial.histogram()[1 : len(areas) + 1]
        if all(s >= _MIN_VISIBLE * area for s, area in zip(seen, areas, strict=True)):
            return left, top
    return None


def _annotate(item: _Placed, owner: Image.Image, number: int) -> DemoObject:
    """Box and flags of object `number`, from the pixels of `owner` that show it."""
    visible = owner.point([255 * (value == number) for value in range(256)])
    box = visible.getbbox()
    if box is None:
        raise AssertionError("a placed object keeps a visible part: see _find_spot")
    left, top = item.spot
    in_box = _area(
        item.sprite.mask.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top))
    )
    seen, whole = _area(visible), _area(item.sprite.mask)
    small = min(box[2] - box[0], box[3] - box[1]) < _DIFFICULT_SIDE
    return DemoObject(
        name=item.sprite.name,
        pose=item.sprite.pose,
        truncated=in_box < (1 - _TRUNCATED_SHARE) * whole,
        occluded=seen < (1 - _OCCLUDED_SHARE) * in_box,
        difficult=small or seen < _DIFFICULT_SHARE * whole,
        box=box,
    )


def _area(mask: Image.Image) -> int:
    return mask.histogram()[255]


def _photograph(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light, a slight cast of colour and sensor noise over the whole picture."""
    light = rng.uniform(0.85, 1.1) * rng.uniform(0.96, 1.04, size=3)
    noise = rng.standard_normal((image.height, image.width, 1), np.float32)
    pixels = np.asarray(image) * light.astype(np.float32) + _NOISE * noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
