"""The loops of `loops.py` in C (`native.c`), where installation could compile them: `LIBRARY` is None where it could not."""

from __future__ import annotations

import ctypes
import importlib.util

import numpy as np
from numpy.typing import NDArray

from albef_ds.views.pending import Pixels

PLACE = np.int32
"""What `blend` takes places as."""


def _load() -> ctypes.CDLL | None:
    found = importlib.util.find_spec("albef_ds.data._native")
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
    except OSError:  # built for another machine
        return None
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.count_values.argtypes = [pointer, size, pointer]
    library.look_up.argtypes = [pointer, size, pointer]
    library.blend.argtypes = [pointer, size, number, pointer, pointer, pointer]
    library.sharpen.argtypes = [pointer, number, number, number, pointer]
    return library


LIBRARY = _load()


def count_values(pixels: Pixels) -> NDArray[np.int64]:
    """See `loops.count_values`."""
    assert LIBRARY is not None
    pixels, counts = np.ascontiguousarray(pixels), np.empty((3, 256), np.int64)
    LIBRARY.count_values(pixels.ctypes.data, pixels.size // 4, counts.ctypes.data)
    return counts


def look_up(pixels: Pixels, tables: NDArray[np.uint8]) -> Pixels:
    """See `loops.look_up`."""
    assert LIBRARY is not None
    result = np.array(pixels, order="C")
    LIBRARY.look_up(result.ctypes.data, result.size // 4, np.ascontiguousarray(tables).ctypes.data)
    return result


def blend(words: NDArray[np.uint32], places: NDArray[np.int32], weights: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """See `loops.blend`; both tables are contiguous."""
    assert LIBRARY is not None
    neighbours, number = places.shape
    result = np.empty(number, np.uint32)
    LIBRARY.blend(words.ctypes.data, number, neighbours, places.ctypes.data, weights.ctypes.data, result.ctypes.data)
    return result


def sharpen(pixels: Pixels, strength: int) -> Pixels:
    """See `loops.sharpen`."""
    assert LIBRARY is not None
    pixels = np.ascontiguousarray(pixels)
    result = np.empty_like(pixels)
    LIBRARY.sharpen(pixels.ctypes.data, *pixels.shape[:2], strength, result.ctypes.data)
    return result
