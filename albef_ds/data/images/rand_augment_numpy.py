"""Applies the operations of `data/images/rand_augment.py` to one image on the CPU.

The operations are Pillow's and timm's at a fraction of the cost of decoding: tone curves are look-up tables, and geometric
transforms use tables of neighbours and weights that are computed once per process. Results differ from Pillow's by at most two
grey levels. The loops over pixels are in C if it could be compiled, else in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from albef_ds.data.images import pixel_loops, pixel_loops_c
from albef_ds.data.images.rand_augment import ENHANCE, GREY, Drawn, Matrix, Operation, movement
from albef_ds.data.images.view import Pixels

LOOPS = pixel_loops if pixel_loops_c.LIBRARY is None else pixel_loops_c
IntTable = NDArray[np.int64]
_UNIT = 256  # sum of the weights of a point's neighbours


def rand_augment(pixels: Pixels, drawn: Sequence[Drawn]) -> Pixels:
    """Returns `pixels` (H, W, 4) after the operations `drawn`."""
    for operation, sign in drawn:
        pixels = apply(pixels, operation, sign)
    return pixels


def apply(pixels: Pixels, operation: Operation, sign: int = 1) -> Pixels:
    """Returns `pixels` (H, W, 4) after one operation."""
    if operation.moves:
        return _moved(pixels, movement(operation, sign, pixels.shape[1], pixels.shape[0]))
    return _TONES[operation](pixels)


def _auto_contrast(pixels: Pixels) -> Pixels:
    """Stretches each channel so that its darkest value becomes 0 and its brightest 255."""
    # By columns first: numpy is fastest along rows of bytes.
    columns = pixels.reshape(len(pixels), -1)
    darkest, brightest = (find(find(columns, 0).reshape(-1, 4), 0).tolist() for find in (np.min, np.max))
    return _apply_tables(pixels, [_stretched(low, high) for low, high in zip(darkest[:3], brightest[:3], strict=True)])


def _stretched(low: int, high: int) -> IntTable:
    if low == high:
        return _VALUES
    scale = 255 / (high - low)
    table: IntTable = (_VALUES * scale - low * scale).clip(0, 255).astype(np.int64)
    return table


def _released_auto_contrast(pixels: Pixels) -> Pixels:
    """Stretches a channel that reaches 0; of another one every value becomes 255, unless there is only one."""
    tables = []
    for counts in LOOPS.count_values(pixels):
        low, high = counts.nonzero()[0][[0, -1]].tolist()
        tables.append(np.full(256, 255) if 0 < low < high else _stretched(low, high))
    return _apply_tables(pixels, tables)


def _equalize(pixels: Pixels) -> Pixels:
    """Equalizes the histogram of each channel."""
    return _apply_tables(pixels, [_equalized(counts) for counts in LOOPS.count_values(pixels)])


def _equalized(counts: IntTable) -> IntTable:
    filled = counts[counts > 0]
    step = int(counts.sum() - filled[-1]) // 255
    below = np.concatenate(([0], np.cumsum(counts)[:-1]))
    return _VALUES if step == 0 else ((step // 2 + below) // step).clip(0, 255)


def _brighter(pixels: Pixels) -> Pixels:
    """Multiplies all values by 1.36."""
    return _apply_tables(pixels, [_BRIGHTER] * 3)


_VALUES = np.arange(256)
_BRIGHTER = (_VALUES * ENHANCE).clip(0, 255).astype(np.int64)


def _sharper(pixels: Pixels) -> Pixels:
    """Returns 1.36 times the image minus 0.36 times the smoothed image; the outermost pixels stay."""
    return pixels if min(pixels.shape[:2]) < 3 else LOOPS.sharpen(pixels, round((ENHANCE - 1) * 256))


def _released_sharper(pixels: Pixels) -> Pixels:
    """`_sharper` in fp32, rounded towards 0, of which the lowest 8 bits are kept."""
    if min(pixels.shape[:2]) < 3:
        return pixels
    middle, smooth = (part.astype(np.float32) for part in pixel_loops.smoothed(pixels))
    result: Pixels = pixels.copy()
    sharp = (smooth + np.float32(ENHANCE) * (middle - smooth)).astype(np.int32).astype(np.uint8)
    result[1:-1, 1:-1] = sharp.reshape(pixels.shape[0] - 2, -1, pixels.shape[2])
    return result


_TONES: dict[Operation, Callable[[Pixels], Pixels]] = {
    Operation.AUTO_CONTRAST: _auto_contrast,
    Operation.EQUALIZE: _equalize,
    Operation.BRIGHTNESS: _brighter,
    Operation.SHARPNESS: _sharper,
    Operation.RELEASED_AUTO_CONTRAST: _released_auto_contrast,
    Operation.RELEASED_SHARPNESS: _released_sharper,
}


def _apply_tables(pixels: Pixels, tables: list[IntTable]) -> Pixels:
    result: Pixels = LOOPS.look_up(pixels, np.array(tables).astype(np.uint8))
    return result


def _moved(pixels: Pixels, matrix: Matrix) -> Pixels:
    """Returns bilinear samples of `pixels` at the points given by `matrix`; grey outside the image."""
    words = np.append(np.ascontiguousarray(pixels).view(np.uint32).reshape(-1), _GREY_WORD)
    places, weights = _neighbours(matrix, pixels.shape[0], pixels.shape[1], LOOPS.PLACE)
    # A single neighbour needs no weights.
    found = words.take(places[0], mode="clip") if len(places) == 1 else LOOPS.blend(words, places, weights)
    result: Pixels = found.view(np.uint8).reshape(pixels.shape)
    return result


_GREY_WORD = np.full(4, GREY, np.uint8).view(np.uint32)


@lru_cache(maxsize=32)  # five transforms in two directions, at a few image sizes
def _neighbours(
    matrix: Matrix, height: int, width: int, kind: type[np.signedinteger[Any]]
) -> tuple[NDArray[np.signedinteger[Any]], NDArray[np.uint16]]:
    """Returns indices among the words and weights, both (K, H W), of the K neighbours of each sampled point."""
    a, b, c, d, e, f = matrix
    y, x = np.mgrid[:height, :width] + 0.5
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    outside = (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)
    left, top = np.floor(from_x - 0.5).astype(np.intp), np.floor(from_y - 0.5).astype(np.intp)
    right, low = from_x - 0.5 - left, from_y - 0.5 - top
    # Running sums are rounded, so that no weight is negative and their sum is exactly one unit.
    shares = [(0, 0, (1 - right) * (1 - low)), (1, 0, right * (1 - low)), (0, 1, (1 - right) * low), (1, 1, right * low)]
    sums = np.rint(np.cumsum([share for *_, share in shares], axis=0) * _UNIT)
    weights = np.diff(sums, axis=0, prepend=0).astype(np.uint16)
    found = []
    for (dx, dy, _), weight in zip(shares, weights, strict=True):
        if weight.any():
            place = np.clip(top + dy, 0, height - 1) * width + np.clip(left + dx, 0, width - 1)
            found.append((np.where(outside, height * width, place).reshape(-1), weight.reshape(-1)))
    places, kept = zip(*found, strict=True)
    return np.array(places, np.intp if len(places) == 1 else kind), np.array(kept)
