"""Images as small JPEGs, for pages."""

from __future__ import annotations

import io

from PIL import Image


def jpeg_of(image: Image.Image, side: int) -> bytes:
    """Returns a JPEG of at most `side` pixels wide and high; the image may be reduced in place."""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
