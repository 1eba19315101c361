"""Every image file becomes the same upright RGB image, whatever its container, mode, depth and orientation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from albef_ds.data.images import read

LIMIT = 10**6


def test_images_in_memory_are_read_as_files_are() -> None:
    image = Image.fromarray(np.arange(0, 48 * 1000, 1000, dtype=np.uint16).reshape(6, 8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert np.array_equal(read.as_rgb(image), read.decode_image(buffer.getvalue(), LIMIT))


@pytest.mark.parametrize("name", ["EPS", "WMF"])
def test_decoders_that_start_a_program_are_not_allowed(name: str) -> None:
    assert name not in read.FORMATS
