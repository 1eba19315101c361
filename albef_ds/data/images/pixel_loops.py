"""RandAugment's loops over the pixels of an image in numpy; `pixel_loops_c.py` has the same in C, with equal results.

Images are `Pixels`, uint8 (H, W, 4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from albef_ds.data.images.view import Pixels

PLACE = np.intp
"""Type of the indices that `blend` takes."""
_LOW, _HALF = np.uint32(0x00FF00FF), 0x00800080  # every other byte of a word; one half in both


def count_values(pixels: Pixels) -> NDArray[np.int64]:
    """Returns the histograms of red, green and blue: int64 (3, 256)."""
    image = Image.frombuffer("RGBA", (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels), "raw", "RGBA", 0, 1)
    return np.array(image.histogram()[:768]).reshape(3, 256)


def look_up(pixels: Pixels, tables: NDArray[np.uint8]) -> Pixels:
    """Maps red, green and blue each through its table, uint8 (3, 256); bytes.translate is the fastest look-up."""
    result: Pixels = pixels.copy()
    for channel, table in enumerate(tables):
        found = pixels[..., channel].tobytes().translate(table.tobytes())
        result[..., channel] = np.frombuffer(found, np.uint8).reshape(pixels.shape[:2])
    return result


def blend(words: NDArray[np.uint32], places: NDArray[np.intp], weights: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Returns (N,), the rounded weighted mean of words, byte by byte.

    Args:
        words: (W,).
        places: (K, N), indices of the K words of each result.
        weights: (K, N), their weights in 256ths, with sum 256.
    """
    # Two bytes of a word at a time, 16 bits apart, so that no sum overflows its 16 bits.
    even, odd = (np.full(places.shape[1], _HALF, np.uint32) for _ in range(2))
    for place, weight in zip(places, weights, strict=True):
        found, share = words.take(place, mode="clip"), weight.astype(np.uint32)
        part = found & _LOW
        part *= share
        even += part
        found >>= 8
        found &= _LOW
        found *= share
        odd += found
    even >>= 8
    even &= _LOW
    odd &= ~_LOW
    even |= odd
    return even


def sharpen(pixels: Pixels, strength: int) -> Pixels:
    """Returns image + `strength`/256 * (image - smoothed image), at least 3 x 3; the outermost pixels stay."""
    height, _, channels = pixels.shape
    middle, smooth = smoothed(pixels)
    change = middle - smooth
    change *= strength
    change >>= 8
    change += middle
    result: Pixels = pixels.copy()
    result.reshape(height, -1)[1:-1, channels:-channels] = np.clip(change, 0, 255, out=change)
    return result


def smoothed(pixels: Pixels) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Returns all but the outermost pixels of an image, at least 3 x 3, and the same smoothed: both (H - 2, (W - 2) 4)."""
    height, width, channels = pixels.shape
    wide = pixels.reshape(height, width * channels).astype(np.int16)
    rows = wide[:-2] + wide[1:-1]
    rows += wide[2:]
    middle = wide[1:-1, channels:-channels]
    smooth = rows[:, : -2 * channels] + rows[:, channels:-channels]
    smooth += rows[:, 2 * channels :]
    smooth += 4 * middle  # its weight is 5, that of its neighbours 1
    smooth += 6
    smooth //= 13
    return middle, smooth
