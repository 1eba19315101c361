"""How the released code reads and augments images, under `task.compat`.

Source: dataset/*.py of the released code (b9727e4): `Image.open(path).convert("RGB")`, which drops alpha, ignores the orientation
and clips 16 bits; torchvision's crop of the whole image; and dataset/randaugment.py, whose functions are repeated below.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.annotations.records import StatementRecord
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.data.images import decode, pixel_loops, pixel_loops_c, rand_augment_numpy, rand_augment_torch
from albef_ds.data.images.crop import Crop
from albef_ds.data.images.rand_augment import Operation, draw, movement

LIMIT = 10**8
LOOPS = [pixel_loops] if pixel_loops_c.LIBRARY is None else [pixel_loops, pixel_loops_c]


def noise(width: int, height: int, channels: int = 3, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def odd_files() -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = np.linspace(0, 65_535, 40 * 30).reshape(30, 40).astype(np.uint16)
    return {
        "alpha": encoded(Image.fromarray(noise(40, 30, 4))),
        "turned": encoded(Image.fromarray(noise(40, 30)), "JPEG", exif=exif),
        "16 bit": encoded(Image.fromarray(deep)),
    }


@pytest.mark.parametrize("name", odd_files())
def test_alpha_orientation_and_16_bits_are_read_as_by_convert(name: str, tmp_path: Path) -> None:
    data = odd_files()[name]
    released = decode.evaluation_view(Image.open(io.BytesIO(data)).convert("RGB"), 32)
    assert torch.equal(decode.resize(data, LIMIT, 32, compat=True), released)
    assert not torch.equal(decode.resize(data, LIMIT, 32), released)
    (tmp_path / "odd").write_bytes(data)
    settings = DataConfig(image_root=str(tmp_path))
    records = [StatementRecord(("odd",), "a dog", 0)]
    assert torch.equal(TextImageSet(records, settings.in_evaluation(512, compat=True), 32).batch([0]).images[0, 0], released)
    assert not torch.equal(TextImageSet(records, settings.in_evaluation(512), 32).batch([0]).images[0, 0], released)


@pytest.mark.parametrize("name", [*odd_files(), "large"])
def test_a_crop_is_cut_from_the_whole_image(name: str) -> None:
    """By default a JPEG is decoded at 1/2 to 1/8 where the crop stays large enough."""
    data = encoded(Image.fromarray(noise(400, 300)), "JPEG") if name == "large" else odd_files()[name]

    def crop() -> Crop:
        return Crop(32, 0.5, randomness.generator(0, 0, randomness.CROP))

    whole = Image.open(io.BytesIO(data)).convert("RGB")
    released = np.asarray(whole.crop(crop().place(*whole.size)))
    assert np.array_equal(decode.decode_crop(data, LIMIT, crop(), compat=True)[..., :3], released)
    ours = decode.decode_crop(data, LIMIT, crop())[..., :3]
    assert ours.shape != released.shape or not np.array_equal(ours, released)


def released_auto_contrast(image: np.ndarray) -> np.ndarray:
    """`autocontrast_func`: `offset = -low * scale`, in which `-low` of an uint8 is 256 - low."""
    channels = []
    for channel in np.moveaxis(image, -1, 0):
        low, high = int(channel.min()), int(channel.max())
        table = np.arange(256.0)
        if high > low:
            scale = 255 / (high - low)
            table = table * scale + (-low % 256) * scale
        channels.append(table.clip(0, 255).astype(np.uint8)[channel])
    return np.stack(channels, axis=-1)


def released_sharpness(image: np.ndarray) -> np.ndarray:
    """`sharpness_func(img, 1.36)`: cv2's 3 x 3 filter with 5 in the middle over 13, rounded; no clipping before uint8."""
    wide = image.astype(np.int64)
    height, width = image.shape[:2]
    total = 4 * wide[1:-1, 1:-1] + sum(
        wide[down : height - 2 + down, right : width - 2 + right] for down in range(3) for right in range(3)
    )
    smooth = np.rint(total / 13).astype(np.float32)
    result = image.copy()
    sharp = smooth + np.float32(0.7 * 1.8 + 0.1) * (image[1:-1, 1:-1].astype(np.float32) - smooth)
    result[1:-1, 1:-1] = np.trunc(sharp).astype(np.int64) % 256
    return result


FORMS = {
    Operation.RELEASED_AUTO_CONTRAST: released_auto_contrast,
    Operation.RELEASED_SHARPNESS: released_sharpness,
}


@pytest.mark.parametrize("loops", LOOPS, ids=lambda loops: loops.__name__[-6:])
@pytest.mark.parametrize("operation", FORMS, ids=lambda operation: operation.name)
@pytest.mark.parametrize(("low", "high"), [(0, 256), (3, 200), (77, 78)])
def test_auto_contrast_and_sharpness_wrap_around(
    operation: Operation, low: int, high: int, loops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rand_augment_numpy, "LOOPS", loops)
    image = noise(48, 40, 3, low, high)
    image[:20, :, 1] = low  # one channel with other values
    released = FORMS[operation](image)
    pixels = np.dstack([image, image[..., :1]])
    assert np.array_equal(rand_augment_numpy.apply(pixels, operation)[..., :3], released)
    colours = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    on_device = rand_augment_torch.rand_augment(colours, [[(operation, 1)]])[0].permute(1, 2, 0)
    assert np.array_equal(on_device.numpy().astype(np.uint8), released)


def test_a_channel_that_does_not_reach_0_turns_white() -> None:
    image = noise(16, 16, 4, 1, 200)
    assert (rand_augment_numpy.apply(image, Operation.RELEASED_AUTO_CONTRAST)[..., :3] == 255).all()
    assert not (rand_augment_numpy.apply(image, Operation.AUTO_CONTRAST)[..., :3] == 255).all()


@pytest.mark.parametrize("side", [256, 384])
def test_translations_are_by_7_pixels_whatever_the_size(side: int) -> None:
    """`translate_level_to_args` with `translate_const` 10, at level 7 of 10."""
    assert movement(Operation.RELEASED_TRANSLATE_X, -1, side, side) == pytest.approx((1, 0, -7, 0, 1, 0))
    assert movement(Operation.RELEASED_TRANSLATE_Y, 1, side, side) == pytest.approx((1, 0, 0, 0, 1, 7))
    assert movement(Operation.TRANSLATE_X, 1, side, side)[2] == pytest.approx(7 * side / 256)


def test_compat_draws_the_same_operations_in_their_released_forms() -> None:
    released = {form.name.removeprefix("RELEASED_") for form in Operation if form.name.startswith("RELEASED_")}
    seen = set()
    for position in range(200):
        usual, theirs = (draw(randomness.generator(0, position, randomness.AUGMENT), compat) for compat in (False, True))
        assert [(form.name.removeprefix("RELEASED_"), sign) for form, sign in theirs] == [
            (form.name, sign) for form, sign in usual
        ]
        assert not any(form.name in released for form, _ in theirs)
        seen |= {form.name.removeprefix("RELEASED_") for form, _ in theirs}
    assert released <= seen


def test_training_views_of_a_compat_run_are_the_released_ones() -> None:
    config = get_recipe("pretrain_4m")
    data = encoded(Image.fromarray(noise(64, 64, 3, 5, 255)))
    views = [
        [decode.training_view(data, settings, 32, 0, position) for position in range(40)]
        for settings in (config.data.in_training(512, compat=True), config.training_data)
    ]
    different = [not np.array_equal(one[..., :3], other[..., :3]) for one, other in zip(*views, strict=True)]
    assert 5 < sum(different) < 35
