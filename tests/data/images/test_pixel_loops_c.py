"""The loops in C give the pixels of those in numpy, for images of every shape."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from albef_ds.data.images import pixel_loops, pixel_loops_c
from albef_ds.data.images.view import Pixels

SHAPES = [(1, 1), (1, 7), (3, 3), (4, 5), (16, 300), (257, 33), (256, 256)]
compiled = pytest.mark.skipif(
    pixel_loops_c.LIBRARY is None and shutil.which("cc") is None, reason="no C compiler: the loops are numpy's"
)


def picture(height: int, width: int, kind: str = "noise") -> Pixels:
    rng = np.random.default_rng(height * width)
    values = {"noise": rng.integers(0, 256, (height, width, 4)), "edges": rng.integers(0, 2, (height, width, 4)) * 255}
    return np.full((height, width, 4), 200, np.uint8) if kind == "flat" else values[kind].astype(np.uint8)


@compiled
def test_installation_compiled_the_loops() -> None:
    assert pixel_loops_c.LIBRARY is not None


@compiled
@pytest.mark.parametrize("kind", ["noise", "edges", "flat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_counts_tables_and_sharpening_equal_numpys(shape: tuple[int, int], kind: str) -> None:
    pixels = picture(*shape, kind)
    before = pixels.copy()
    tables = np.random.default_rng(1).integers(0, 256, (3, 256), dtype=np.uint8)
    assert np.array_equal(pixel_loops_c.count_values(pixels), pixel_loops.count_values(pixels))
    assert np.array_equal(pixel_loops_c.look_up(pixels, tables), pixel_loops.look_up(pixels, tables))
    if min(shape) >= 3:
        for strength in (1, 92, 128):
            sharp = pixel_loops_c.sharpen(pixels, strength)
            assert np.array_equal(sharp[..., :3], pixel_loops.sharpen(pixels, strength)[..., :3])
            assert kind != "noise" or strength < 92 or not np.array_equal(sharp, pixels)
    assert np.array_equal(pixels, before)


@compiled
@pytest.mark.parametrize("neighbours", [1, 2, 4])
@pytest.mark.parametrize("number", [1, 255, 256, 257, 5000])
@pytest.mark.parametrize("values", ["any", "white"])
def test_weighted_means_equal_numpys(number: int, neighbours: int, values: str) -> None:
    rng = np.random.default_rng(number)
    words = rng.integers(0, 1 << 32, 999, dtype=np.uint32) if values == "any" else np.full(999, 0xFFFFFFFF, np.uint32)
    borders = np.sort(rng.integers(0, 257, (neighbours - 1, number)), axis=0)
    weights = np.diff(borders, axis=0, prepend=0, append=256).astype(np.uint16)
    places = rng.integers(0, 999, (neighbours, number))
    expected = sum(words.view(np.uint8).reshape(-1, 4)[p] * w[:, None].astype(int) for p, w in zip(places, weights, strict=True))
    for form in (pixel_loops, pixel_loops_c):
        found = form.blend(words, places.astype(form.PLACE), weights)
        assert np.array_equal(found.view(np.uint8).reshape(-1, 4), (expected + 128) // 256), form


@compiled
def test_pixels_of_a_view_with_gaps_are_read_where_they_are() -> None:
    pixels = picture(40, 60)[3:-5, 2:-9]
    tables = np.arange(768, dtype=np.uint8).reshape(3, 256)[:, ::-1]
    assert np.array_equal(pixel_loops_c.count_values(pixels), pixel_loops.count_values(pixels))
    assert np.array_equal(pixel_loops_c.look_up(pixels, tables), pixel_loops.look_up(pixels, tables))
    assert np.array_equal(pixel_loops_c.sharpen(pixels, 92)[..., :3], pixel_loops.sharpen(pixels, 92)[..., :3])


@compiled
def test_a_library_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pixel_loops_c._load() is not None
    monkeypatch.setattr(pixel_loops_c, "_VERSION", pixel_loops_c._VERSION + 1)
    assert pixel_loops_c._load() is None


@compiled
def test_places_of_another_width_are_refused() -> None:
    places, weights = np.zeros((1, 4), np.int64), np.full((1, 4), 256, np.uint16)
    with pytest.raises(AssertionError, match="C reads"):
        pixel_loops_c.blend(np.zeros(9, np.uint32), places, weights)  # type: ignore[arg-type]
