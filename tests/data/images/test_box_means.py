"""Thumbnails made with the loop in C are Pillow's, to the byte, for images of every shape."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from albef_ds.data.images import box_means
from data_tools.content import images

compiled = pytest.mark.skipif(
    box_means.LIBRARY is None and shutil.which("cc") is None, reason="no C compiler: thumbnails are Pillow's alone"
)


@compiled
def test_installation_compiled_the_loop() -> None:
    assert box_means.LIBRARY is not None


@compiled
@pytest.mark.parametrize("kind", ["noise", "white"])
def test_means_of_boxes_equal_pillows(kind: str) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 1, 1, 1), (7, 5, 3, 2), (9, 8, 10, 9), (61, 43, 7, 11), (300, 5, 257, 1), (480, 640, 5, 6)]
    for height, width, rows, columns in shapes:
        pixels = np.full((height, width, 3), 255, np.uint8)
        if kind == "noise":
            pixels = rng.integers(0, 256, pixels.shape, dtype=np.uint8)
        expected = np.asarray(Image.fromarray(pixels).reduce((columns, rows)))
        found = box_means.box_means(pixels, rows, columns)
        assert np.array_equal(found[..., :3], expected) and not found[..., 3].any(), (height, width)


@compiled
def test_thumbnails_are_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    shapes = [(1, 1), (5, 400), (97, 31), (97, 192), (288, 191), (1000, 750), (25_000, 3)]
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    found = [images.DecodedImage("PNG", "RGB", 1, 0, 0, picture).thumbnail() for picture in pictures]
    monkeypatch.setattr(box_means, "LIBRARY", None)
    for picture, thumbnail in zip(pictures, found, strict=True):
        expected = images.DecodedImage("PNG", "RGB", 1, 0, 0, picture).thumbnail()
        assert expected.shape == (images.SIDE, images.SIDE, 3) and np.array_equal(thumbnail, expected), picture.shape
