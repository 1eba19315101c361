"""Our RandAugment compared with timm's, which draws the same numbers and moves the same pixels with Pillow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data.auto_augment import AugmentOp

from albef_ds.data.images import pixel_loops, pixel_loops_c
from albef_ds.data.images import rand_augment_numpy as augment
from albef_ds.data.images.rand_augment import Operation, draw, draw_sign

NAMES = ("AutoContrast", "Equalize", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
SIDE = 64
OPERATIONS = list(Operation)[1:]


FORMS = [pixel_loops] if pixel_loops_c.LIBRARY is None else [pixel_loops, pixel_loops_c]


@pytest.fixture(autouse=True, params=FORMS, ids=lambda form: form.__name__[-6:])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test once with numpy's loops and once with those in C."""
    monkeypatch.setattr(augment, "LOOPS", request.param)


def reference(probability: float, side: int = SIDE) -> list[Any]:
    """timm's operations with the released settings for images of `side`, the identity first."""
    settings = {"translate_const": side * 10 / 256, "img_mean": (128, 128, 128), "interpolation": Image.Resampling.BILINEAR}
    make: Any = AugmentOp
    return [lambda image: image, *(make(name, probability, 7, settings) for name in NAMES)]


@contextmanager
def global_generator(seed: int) -> Iterator[None]:
    """Python's global generator seeded as ours is: timm draws from it."""
    state = random.getstate()
    random.seed(seed)
    yield
    random.setstate(state)


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(20, 230, (12, 12, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def augmented(image: Image.Image, number: int, seed: int) -> Any:
    """`image` after operation `number`, its sign drawn as timm draws it."""
    operation = Operation(number)
    return augment.apply(np.array(image.convert("RGBA")), operation, draw_sign(random.Random(seed)) if operation.moves else 1)


def difference(ours: Any, theirs: Image.Image) -> int:
    return int(np.abs(ours[..., :3].astype(int) - np.asarray(theirs)).max())


@pytest.mark.parametrize("number", range(1, 10), ids=NAMES)
def test_each_operation_gives_timms_pixels(number: int) -> None:
    for seed in range(6):  # both signs
        image = picture(seed)
        ours = augmented(image, number, seed)
        with global_generator(seed):
            theirs = reference(1.0)[number](image)
        assert difference(ours, theirs) <= 2, seed


@pytest.mark.parametrize("number", range(5, 10), ids=NAMES[4:])
def test_a_point_between_black_and_white_stays_between_them(number: int) -> None:
    """Weights of neighbours that do not sum to one unit would overflow: white specks in black, and the reverse."""
    for seed in range(4):
        black_or_white = np.random.default_rng(seed).integers(0, 2, (256, 256, 1), dtype=np.uint8) * 255
        image = Image.fromarray(black_or_white.repeat(3, axis=2))
        ours = augmented(image, number, seed)
        with global_generator(seed):
            theirs = reference(1.0, 256)[number](image)
        assert difference(ours, theirs) <= 2, seed


def test_the_same_operations_are_drawn_and_half_of_them_left_out() -> None:
    changed = 0
    for seed in range(60):
        image = picture(seed)
        ours = augment.rand_augment(np.array(image.convert("RGBA")), draw(random.Random(seed)))
        with global_generator(seed):
            theirs = image
            for operation in random.choices(reference(0.5), k=2):
                theirs = operation(theirs)
        # On average: equalizing spreads single levels of the operation before it.
        assert np.abs(ours[..., :3].astype(int) - np.asarray(theirs)).mean() <= 1, seed
        changed += difference(ours, image) > 0
    assert 25 <= changed <= 55


def test_flat_and_tiny_images_pass_through_every_operation() -> None:
    for shape in ((SIDE, SIDE, 4), (2, 2, 4), (1, 1, 4)):
        flat = np.full(shape, 77, np.uint8)
        for operation in OPERATIONS:
            assert augment.apply(flat, operation).shape == shape
            assert (flat == 77).all()


def test_an_image_is_not_changed_in_place() -> None:
    pixels = np.array(picture(0).convert("RGBA"))
    before = pixels.copy()
    for operation in OPERATIONS:
        augment.apply(pixels, operation, -1)
    assert (pixels == before).all()
