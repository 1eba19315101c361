"""`data.crop_scale_min=1` keeps the full image: referring expressions may mean its border."""

from __future__ import annotations

import random

import pytest

from albef_ds.data.images.crop import crop_box


@pytest.mark.parametrize(("width", "height"), [(640, 480), (100, 900), (7, 7)])
def test_nothing_is_cut_off(width: int, height: int) -> None:
    for seed in range(20):
        assert crop_box(width, height, 1.0, random.Random(seed)) == (0, 0, width, height)
