"""Means of boxes of an image in C (`box_means_c.c`), as Pillow's `Image.reduce` without its copy of the pixels.

`LIBRARY` is None if installation could not compile it.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.compiled import load_library

_VERSION = 1
"""Version of the function's name and arguments, as in box_means_c.c."""
MOST_ROWS = 257
"""Rows of a box at most: the sum of a column has 16 bits."""


def _load() -> ctypes.CDLL | None:
    library = load_library("albef_ds.data.images._box_means", "albef_ds_box_means_version", _VERSION)
    if library is None:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.box_means.argtypes = [pointer, number, number, number, number, pointer, pointer]
    library.box_means.restype = None
    return library


LIBRARY = _load()


def box_means(pixels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Returns the means of boxes of pixels, uint8 (ceil(H / rows), ceil(W / columns), 4); the fourth byte is 0.

    `pixels` is uint8 (H, W, 3), a box `rows` (at most MOST_ROWS) x `columns` pixels. Boxes at the
    right and lower edges are smaller where the size does not divide.
    """
    assert LIBRARY is not None and rows <= MOST_ROWS
    pixels = np.ascontiguousarray(pixels)
    height, width, _ = pixels.shape
    sums = np.empty(3 * width, np.uint16)
    result = np.empty((-(-height // rows), -(-width // columns), 4), np.uint8)
    LIBRARY.box_means(pixels.ctypes.data, height, width, rows, columns, sums.ctypes.data, result.ctypes.data)
    return result
