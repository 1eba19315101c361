"""The fast path for JPEG: libjpeg-turbo through simplejpeg where it is installed, with the pixels that Pillow gives.

It refuses whatever Pillow could refuse or read in another way; `read.py`, which uses Pillow, then decides. So the same files are
refused, and the same pixels made, with and without simplejpeg.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import simplejpeg
except ImportError:  # optional; without it decoding takes longer
    simplejpeg = None

_TURNED = re.compile(rb"Exif\0\0|tiff:Orientation")
_FRAMES = (0xC0, 0xC1, 0xC2)
_SEGMENTS = frozenset((*_FRAMES, 0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))  # what stands before the first scan of usual files
_SCAN, _APP1, _END = 0xDA, 0xE1, b"\xff\xd9"
_MODES: dict[str, Literal["RGB", "L"]] = {"YCbCr": "RGB", "Gray": "L"}


class PlainJpeg(NamedTuple):
    """What the header of a plain JPEG says: 8 bits, colour (YCbCr) or grey, nothing unusual before the first scan."""

    width: int
    height: int
    mode: Literal["RGB", "L"]
    """As Pillow names it."""
    may_be_turned: bool
    """Whether EXIF or XMP may contain an orientation."""
    ends: bool
    """Whether there is an end mark after the first scan; without one the file is cut off."""


def plain(data: bytes) -> PlainJpeg | None:
    """Returns the header of a JPEG of the usual form; None if Pillow has to look at the file. Decodes nothing."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    place, turned = 2, False
    components = width = height = 0
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _SCAN:
            break
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker not in _SEGMENTS:
            return None
        if marker in _FRAMES and place + 10 <= len(data):
            height, width = (int.from_bytes(data[place + at : place + at + 2], "big") for at in (5, 7))
            components = data[place + 9] if data[place + 4] == 8 else 0
        elif marker == _APP1 and _TURNED.search(data, place, place + 2 + length):
            turned = True
        place += 2 + length
    else:
        return None
    mode = _mode(data, components)
    if mode is None or not width * height:
        return None
    return PlainJpeg(width, height, mode, turned, data.rfind(_END, place) > 0)


def _mode(data: bytes, components: int) -> Literal["RGB", "L"] | None:
    if simplejpeg is None:
        return {1: _MODES["Gray"], 3: _MODES["YCbCr"]}.get(components)
    try:
        return _MODES.get(simplejpeg.decode_jpeg_header(data)[2])
    except ValueError:
        return None


def decode(data: bytes, header: PlainJpeg, space: Literal["RGB", "RGBX", "GRAY"], scale: int = 1) -> NDArray[np.uint8] | None:
    """Returns a plain JPEG as stored, uint8 (height, width, channels of `space`), at 1/`scale` of its size (1, 2, 4 or 8).

    Returns None if simplejpeg is not installed or gives as much as a warning.
    """
    if simplejpeg is None or not header.ends:
        return None
    least = {"min_width": -(-header.width // scale), "min_height": -(-header.height // scale)}
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, space, **least)
    except ValueError:  # damaged or unusual
        return None
    return pixels
