"""The random crop of a training view (RandomResizedCrop's distribution, as released)."""

from __future__ import annotations

import math
import random

_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


class Crop:
    """A random crop (`crop_box`), drawn when the size of the image is known, and the scale at which a JPEG suffices for it.

    Args:
        side: height and width in pixels to which the crop will be resized.
        scale_min: smallest share of the area.
        generator: source of the random numbers.
    """

    def __init__(self, side: int, scale_min: float, generator: random.Random) -> None:
        self.side, self._scale_min, self._generator = side, scale_min, generator
        self._size: tuple[int, int] | None = None
        self._box = (0, 0, 1, 1)

    def scale_for(self, width: int, height: int) -> int:
        """Returns the largest of 8, 4, 2 and 1 by which the image can be reduced while the crop keeps `side` pixels per axis."""
        left, top, right, bottom = self.place(width, height)
        return next((scale for scale in (8, 4, 2) if min(right - left, bottom - top) >= scale * self.side), 1)

    def place(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Returns left, top, right and bottom in the full image, whose upright size is given."""
        if self._size is None:
            self._size = width, height
            self._box = crop_box(width, height, self._scale_min, self._generator)
        return self._box

    def box(self, width: int) -> tuple[int, ...]:
        """Returns left, top, right and bottom in the image as decoded, `width` pixels wide."""
        assert self._size is not None
        scale = round(self._size[0] / width)
        return tuple(edge // scale for edge in self._box)


def crop_box(width: int, height: int, scale_min: float, generator: random.Random) -> tuple[int, int, int, int]:
    """Returns a box (left, top, right, bottom) of a share of the area from `scale_min` to 1 and an aspect ratio from 3/4 to 4/3.

    A `scale_min` of 1 gives the full image, whatever its ratio.
    """
    if scale_min == 1.0:
        return 0, 0, width, height
    for _ in range(_TRIES):
        area = width * height * (scale_min + (1 - scale_min) * generator.random())
        ratio = math.exp(math.log(_RATIO[0]) + math.log(_RATIO[1] / _RATIO[0]) * generator.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.random() * (width - w + 1)), int(generator.random() * (height - h + 1))
            return left, top, left + w, top + h
    # No try fitted (an extreme aspect ratio): the largest central box of an allowed ratio.
    w, h = min(width, max(1, round(height * _RATIO[1]))), min(height, max(1, round(width / _RATIO[0])))
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h
