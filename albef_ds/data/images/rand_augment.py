"""RandAugment's ten operations as in the released code: random choice, strengths, and the geometric transforms.

Two of ten are drawn, each applied with probability 1/2, at magnitude 7. None changes hue or saturation, so colours named in a
caption stay correct. `rand_augment_numpy.py` applies the operations to an image on the CPU, `rand_augment_torch.py` to a batch on
the model's device.
"""

from __future__ import annotations

import math
import random
from enum import IntEnum

LAYERS, PROBABILITY = 2, 0.5
_STRENGTH = 0.7  # magnitude 7 of 10
ENHANCE = 0.1 + 1.8 * _STRENGTH
_SHEAR = 0.3 * _STRENGTH
_DEGREES = 30 * _STRENGTH
_TRANSLATION = 10 / 256 * _STRENGTH  # of the side: at most the released 10 pixels at 256
_RELEASED_TRANSLATION = 10 * _STRENGTH  # pixels
GREY = 128
"""Value of pixels from outside the image."""

Matrix = tuple[float, float, float, float, float, float]
"""Source of the output pixel at (x, y): (a x + b y + c, d x + e y + f), in coordinates of pixel centres."""


class Operation(IntEnum):
    """The operations in the order of the random choice."""

    IDENTITY = 0
    AUTO_CONTRAST = 1
    EQUALIZE = 2
    BRIGHTNESS = 3
    SHARPNESS = 4
    SHEAR_X = 5
    SHEAR_Y = 6
    TRANSLATE_X = 7
    TRANSLATE_Y = 8
    ROTATE = 9
    RELEASED_AUTO_CONTRAST = 10
    """Its offset wraps around in 8 bits: a channel whose darkest value is above 0 turns white."""
    RELEASED_SHARPNESS = 11
    """Values below 0 and above 255 wrap around."""
    RELEASED_TRANSLATE_X = 12
    """By 7 pixels, whatever the size of the image."""
    RELEASED_TRANSLATE_Y = 13

    @property
    def moves(self) -> bool:
        """True if it moves pixels, in one of two directions."""
        return Operation.SHEAR_X <= self <= Operation.ROTATE or self >= Operation.RELEASED_TRANSLATE_X


_ALL = tuple(Operation)[: Operation.ROTATE + 1]
_RELEASED = {
    Operation.AUTO_CONTRAST: Operation.RELEASED_AUTO_CONTRAST,
    Operation.SHARPNESS: Operation.RELEASED_SHARPNESS,
    Operation.TRANSLATE_X: Operation.RELEASED_TRANSLATE_X,
    Operation.TRANSLATE_Y: Operation.RELEASED_TRANSLATE_Y,
}

Drawn = tuple[Operation, int]
"""An operation and its direction if it moves pixels: 1 or -1."""


def draw(generator: random.Random, compat: bool = False) -> tuple[Drawn, ...]:
    """Draws the operations for one image: at most `LAYERS`, in order; with `compat` in the released code's forms."""
    drawn = []
    for operation in generator.choices(_ALL, k=LAYERS):
        if operation is not Operation.IDENTITY and generator.random() <= PROBABILITY:
            form = _RELEASED.get(operation, operation) if compat else operation
            drawn.append((form, draw_sign(generator) if operation.moves else 1))
    return tuple(drawn)


def draw_sign(generator: random.Random) -> int:
    """Draws 1 or -1."""
    return -1 if generator.random() > 0.5 else 1


def movement(operation: Operation, sign: int, width: int, height: int) -> Matrix:
    """Returns the matrix by which `operation` moves the pixels of an image of this size; rotation is about its centre."""
    if operation is Operation.SHEAR_X:
        return 1, sign * _SHEAR, 0, 0, 1, 0
    if operation is Operation.SHEAR_Y:
        return 1, 0, 0, sign * _SHEAR, 1, 0
    if operation is Operation.TRANSLATE_X:
        return 1, 0, sign * _TRANSLATION * width, 0, 1, 0
    if operation is Operation.TRANSLATE_Y:
        return 1, 0, 0, 0, 1, sign * _TRANSLATION * width
    if operation is Operation.RELEASED_TRANSLATE_X:
        return 1, 0, sign * _RELEASED_TRANSLATION, 0, 1, 0
    if operation is Operation.RELEASED_TRANSLATE_Y:
        return 1, 0, 0, 0, 1, sign * _RELEASED_TRANSLATION
    assert operation is Operation.ROTATE, "the other operations move nothing"
    angle = -math.radians(sign * _DEGREES)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = width / 2, height / 2
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y
