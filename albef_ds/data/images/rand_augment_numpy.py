"""RandAugment of one picture on the CPU: `data/images/rand_augment.py` says what is drawn, this applies it.

The operations are Pillow's and timm's, written so that a picture costs a fraction of its decoding: tone curves are tables,
and a movement of pixels reads tables of neighbours and weights that are made once per process. Results differ from Pillow's
by at most two grey levels. The loops over pixels are C where that could be compiled, else numpy.
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
Counts = NDArray[np.int64]
_UNIT = 256  # weights of the neighbours of a point sum to this


def rand_augment(pixels: Pixels, drawn: Sequence[Drawn]) -> Pixels:
    """`pixels` (H, W, 4) after the operations that were drawn."""
    for operation, sign in drawn:
        pixels = apply(pixels, operation, sign)
    return pixels


def apply(pixels: Pixels, operation: Operation, sign: int = 1) -> Pixels:
    """`pixels` (H, W, 4) after one operation."""
    if operation.moves:
        return _moved(pixels, movement(operation, sign, pixels.shape[1], pixels.shape[0]))
    return _TONES[operation](pixels)


def _auto_contrast(pixels: Pixels) -> Pixels:
    """Each channel stretched so that its darkest value becomes 0 and its brightest 255."""
    # By columns first: a row of bytes is what numpy compares fast.
    columns = pixels.reshape(len(pixels), -1)
    darkest, brightest = (find(find(columns, 0).reshape(-1, 4), 0).tolist() for find in (np.min, np.max))
    return _apply_tables(pixels, [_stretched(low, high) for low, high in zip(darkest[:3], brightest[:3], strict=True)])


def _stretched(low: int, high: int) -> Counts:
    if low == high:
        return _VALUES
    scale = 255 / (high - low)
    table: Counts = (_VALUES * scale - low * scale).clip(0, 255).astype(np.int64)
    return table


def _equalize(pixels: Pixels) -> Pixels:
    """Each channel with its values spread so that all are about equally frequent."""
    return _apply_tables(pixels, [_equalized(counts) for counts in LOOPS.count_values(pixels)])


def _equalized(counts: Counts) -> Counts:
    filled = counts[counts > 0]
    step = int(counts.sum() - filled[-1]) // 255
    below = np.concatenate(([0], np.cumsum(counts)[:-1]))
    return _VALUES if step == 0 else ((step // 2 + below) // step).clip(0, 255)


def _brighter(pixels: Pixels) -> Pixels:
    """All values times 1.36."""
    return _apply_tables(pixels, [_BRIGHTER] * 3)


_VALUES = np.arange(256)
_BRIGHTER = (_VALUES * ENHANCE).clip(0, 255).astype(np.int64)


def _sharper(pixels: Pixels) -> Pixels:
    """1.36 times the picture less 0.36 times its smoothed form; the outermost pixels stay."""
    return pixels if min(pixels.shape[:2]) < 3 else LOOPS.sharpen(pixels, round((ENHANCE - 1) * 256))


_TONES: dict[Operation, Callable[[Pixels], Pixels]] = {
    Operation.AUTO_CONTRAST: _auto_contrast,
    Operation.EQUALIZE: _equalize,
    Operation.BRIGHTNESS: _brighter,
    Operation.SHARPNESS: _sharper,
}


def _apply_tables(pixels: Pixels, tables: list[Counts]) -> Pixels:
    result: Pixels = LOOPS.look_up(pixels, np.array(tables).astype(np.uint8))
    return result


def _moved(pixels: Pixels, matrix: Matrix) -> Pixels:
    """Bilinear samples of `pixels` where `matrix` says; grey where that is outside."""
    words = np.append(np.ascontiguousarray(pixels).view(np.uint32).reshape(-1), _GREY_WORD)
    places, weights = _neighbours(matrix, pixels.shape[0], pixels.shape[1], LOOPS.PLACE)
    # Whole pixels have nothing to weigh.
    found = words.take(places[0], mode="clip") if len(places) == 1 else LOOPS.blend(words, places, weights)
    result: Pixels = found.view(np.uint8).reshape(pixels.shape)
    return result


_GREY_WORD = np.full(4, GREY, np.uint8).view(np.uint32)


@lru_cache(maxsize=32)  # nine movements and mirrored ones, at one size of picture
def _neighbours(
    matrix: Matrix, height: int, width: int, kind: type[np.signedinteger[Any]]
) -> tuple[NDArray[np.signedinteger[Any]], NDArray[np.uint16]]:
    """Of the K neighbours of each sampled point, the places among the words, (K, H W), and the weights, (K, H W)."""
    a, b, c, d, e, f = matrix
    y, x = np.mgrid[:height, :width] + 0.5
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    outside = (from_x < 0) | (from_x >= width) | (from_y < 0) | (from_y >= height)
    left, top = np.floor(from_x - 0.5).astype(np.intp), np.floor(from_y - 0.5).astype(np.intp)
    right, low = from_x - 0.5 - left, from_y - 0.5 - top
    # Rounded as running sums, so that no weight is negative and all of them are one unit.
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
