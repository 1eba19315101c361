"""The functions of `pixel_loops.py` in C (`pixel_loops_c.c`). `LIBRARY` is None if installation could not compile them."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.compiled import load_library
from albef_ds.data.images.view import Pixels

PLACE = np.int32
"""Type of the indices that `blend` takes."""
_VERSION = 1
"""Version of the functions' names and arguments, as in pixel_loops_c.c."""


def _load() -> ctypes.CDLL | None:
    library = load_library("albef_ds.data.images._pixel_loops", "albef_ds_loops_version", _VERSION)
    if library is None:
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.count_values.argtypes = [pointer, size, pointer]
    library.look_up.argtypes = [pointer, size, pointer]
    library.blend.argtypes = [pointer, size, number, pointer, pointer, pointer]
    library.sharpen.argtypes = [pointer, number, number, number, pointer]
    return library


LIBRARY = _load()


def count_values(pixels: Pixels) -> NDArray[np.int64]:
    """See `pixel_loops.count_values`."""
    assert LIBRARY is not None
    pixels, counts = np.ascontiguousarray(pixels), np.empty((3, 256), np.int64)
    LIBRARY.count_values(pixels.ctypes.data, pixels.size // 4, counts.ctypes.data)
    return counts


def look_up(pixels: Pixels, tables: NDArray[np.uint8]) -> Pixels:
    """See `pixel_loops.look_up`."""
    assert LIBRARY is not None
    # Both are bound to names, since an address does not keep its array alive.
    result, tables = np.array(pixels, order="C"), np.ascontiguousarray(tables)
    LIBRARY.look_up(result.ctypes.data, result.size // 4, tables.ctypes.data)
    return result


def blend(words: NDArray[np.uint32], places: NDArray[np.int32], weights: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """See `pixel_loops.blend`. Both tables must be contiguous."""
    assert LIBRARY is not None
    assert words.dtype == np.uint32 and places.dtype == PLACE and weights.dtype == np.uint16, "C reads them as these"
    neighbours, number = places.shape
    result = np.empty(number, np.uint32)
    LIBRARY.blend(words.ctypes.data, number, neighbours, places.ctypes.data, weights.ctypes.data, result.ctypes.data)
    return result


def sharpen(pixels: Pixels, strength: int) -> Pixels:
    """See `pixel_loops.sharpen`."""
    assert LIBRARY is not None
    pixels = np.ascontiguousarray(pixels)
    result = np.empty_like(pixels)
    LIBRARY.sharpen(pixels.ctypes.data, *pixels.shape[:2], strength, result.ctypes.data)
    return result
