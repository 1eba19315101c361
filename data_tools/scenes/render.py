"""Draws scenes with exact boxes of the objects. Every image is a pure function of the arguments and the generator's state."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageDraw

from data_tools.scenes.meanings import Meaning, Thing

Box = tuple[int, int, int, int]
"""left, top, width, height in pixels, as in COCO's files."""

Stamps = Mapping[Thing, Image.Image]
"""An image to paste for each object."""

PIXELS: tuple[tuple[int, int, int], ...] = (
    (214, 40, 40),
    (42, 157, 60),
    (36, 80, 220),
    (240, 200, 30),
    (140, 50, 180),
    (20, 20, 20),
)
"""RGB of each colour of `meanings.COLOURS`."""
SCREEN = (150, 150, 150)
RADII = (0.15, 0.21)
"""Half the side of a small and a large object as fractions of the image's side."""
_SUPERSAMPLING = 3
SPOT_CENTRES = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73)}
_CORNERS = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))
_JITTER = 0.05


@dataclass(frozen=True)
class Placed:
    """An object placed in an image: centre and radius as fractions of the side; `size` 0 small, 1 large."""

    thing: Thing
    size: int
    x: float
    y: float

    @property
    def radius(self) -> float:
        """Half the object's side as a fraction of the image's."""
        return RADII[self.size]


@dataclass(frozen=True)
class RenderedScene:
    """PNG bytes, and the box and size of each object in the given order."""

    png: bytes
    boxes: tuple[Box, ...]
    sizes: tuple[int, ...]
    side: int


def place(thing: Thing, centre: tuple[float, float], generator: random.Random) -> Placed:
    """`thing` near `centre`, of a random size."""
    size = generator.randrange(len(RADII))
    x, y = (value + generator.uniform(-_JITTER, _JITTER) for value in centre)
    return Placed(thing, size, x, y)


def draw_scene(meaning: Meaning, generator: random.Random, side: int = 64, stamps: Stamps | None = None) -> RenderedScene:
    """Both objects of `meaning`, with the first object's box first; drawn, or pasted from `stamps`."""
    own, other = (0.27, 0.73) if meaning.relation in ("left of", "above") else (0.73, 0.27)
    level = generator.uniform(0.35, 0.65)  # the pair as a whole may be off centre
    centres = [(own, level), (other, level)] if meaning.relation in ("left of", "right of") else [(level, own), (level, other)]
    objects = [place(t, c, generator) for t, c in zip(meaning.things, centres, strict=True)]
    return draw(objects, generator, side, stamps=stamps)


def draw_corners(things: list[Thing], generator: random.Random, side: int = 64) -> RenderedScene:
    """Up to four objects in random corners."""
    corners = generator.sample(_CORNERS, len(things))
    return draw([place(t, c, generator) for t, c in zip(things, corners, strict=True)], generator, side)


def draw_screened(thing: Thing, spot: str, screen: str, generator: random.Random, side: int = 64) -> RenderedScene:
    """One object at `spot` and an opaque screen at `screen`; the only box is the object's."""
    return draw([place(thing, SPOT_CENTRES[spot], generator)], generator, side, screen=SPOT_CENTRES[screen])


def draw(
    objects: list[Placed],
    generator: random.Random,
    side: int,
    screen: tuple[float, float] | None = None,
    stamps: Stamps | None = None,
) -> RenderedScene:
    """Draws the objects on a light background of a random tint."""
    large = side * _SUPERSAMPLING
    tint = generator.randint(225, 255)
    image = Image.new("RGB", (large, large), (tint, tint, min(255, tint + generator.randint(0, 8))))
    canvas = ImageDraw.Draw(image)
    for item in objects:
        if stamps is None:
            _draw_thing(canvas, item, large)
        else:
            left, top, width, height = _box(item, large)
            image.paste(stamps[item.thing].convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (left, top))
    if screen is not None:
        corners = [(value + half) * large for half in (-0.2, 0.2) for value in screen]
        canvas.rectangle(corners, fill=SCREEN, outline=(90, 90, 90))
    buffer = io.BytesIO()
    image.resize((side, side), Image.Resampling.BOX).save(buffer, "PNG")
    return RenderedScene(
        buffer.getvalue(), tuple(_box(item, side) for item in objects), tuple(item.size for item in objects), side
    )


def _box(item: Placed, side: int) -> Box:
    left, top = math.floor((item.x - item.radius) * side), math.floor((item.y - item.radius) * side)
    right, bottom = math.ceil((item.x + item.radius) * side), math.ceil((item.y + item.radius) * side)
    left, top, right, bottom = max(0, left), max(0, top), min(side, right), min(side, bottom)
    return left, top, right - left, bottom - top


def _draw_thing(canvas: ImageDraw.ImageDraw, item: Placed, side: int) -> None:
    x, y, r = item.x * side, item.y * side, item.radius * side
    fill = PIXELS[item.thing.colour]
    if item.thing.shape == 0:
        canvas.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif item.thing.shape == 1:
        canvas.rectangle([x - r, y - r, x + r, y + r], fill=fill)
    elif item.thing.shape == 2:
        canvas.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill)
    else:
        arm = 0.36 * r
        canvas.rectangle([x - arm, y - r, x + arm, y + r], fill=fill)
        canvas.rectangle([x - r, y - arm, x + r, y + arm], fill=fill)
