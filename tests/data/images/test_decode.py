"""Images are decoded, cropped and normalised to the same values by every decoder."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode, jpeg
from albef_ds.data.images.crop import Crop, crop_box
from albef_ds.data.images.normalise import normalise

LIMIT = 10**6


def encode(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(width: int = 50, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_white(mode: str) -> None:
    image = decode.decode_image(encode(Image.new(mode, (4, 4), 0)), LIMIT)
    assert image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    decoded = decode.decode_image(encode(image, transparency=1), LIMIT)
    assert decoded.getpixel((0, 0)) == (255, 255, 255)


def test_grey_palette_and_cmyk_become_rgb() -> None:
    assert decode.decode_image(encode(Image.new("L", (4, 4), 100)), LIMIT).getpixel((1, 1)) == (100, 100, 100)
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert decode.decode_image(encode(red.convert("P")), LIMIT).getpixel((1, 1)) == (255, 0, 0)
    r, g, b = decode.decode_image(encode(red.convert("CMYK"), "JPEG"), LIMIT).getpixel((1, 1))
    assert r > 200 and g < 60 and b < 60


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    assert decode.decode_image(encode(deep), LIMIT).getpixel((0, 0)) == (128, 128, 128)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert decode.decode_image(encode(noise(50, 40), "JPEG", exif=exif), LIMIT).size == (40, 50)


@pytest.mark.parametrize(
    "data", [b"", b"no picture", encode(noise())[:200], encode(noise(), "JPEG")[:300], encode(noise(), "EPS")]
)
def test_bytes_that_are_no_complete_image_are_a_broken_sample(data: bytes) -> None:
    with pytest.raises(BrokenSampleError, match="undecodable picture"):
        decode.decode_image(data, LIMIT)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BrokenSampleError, match="too many pixels"):
        decode.decode_image(encode(Image.new("1", (10_000, 9_000))), 89_478_485)


def test_a_large_jpeg_is_decoded_smaller_but_its_crop_is_not_below_what_is_needed() -> None:
    smooth = Image.effect_noise((20, 16), 60).convert("RGB").resize((800, 640), Image.Resampling.BICUBIC)
    data = encode(smooth, "JPEG", quality=95)
    for position in range(20):
        box = crop_box(800, 640, 0.2, randomness.generator(0, position, randomness.CROP))
        crop = decode.decode_crop(data, LIMIT, Crop(100, 0.2, randomness.generator(0, position, randomness.CROP)))
        width, height = box[2] - box[0], box[3] - box[1]
        scale = next(s for s in (8, 4, 2, 1) if s == 1 or min(width, height) >= s * 100)
        assert min(crop.shape[:2]) >= 100 and abs(crop.shape[1] - width / scale) <= 1 and abs(crop.shape[0] - height / scale) <= 1
        whole = np.asarray(smooth.crop(box).resize((50, 50), Image.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(Image.fromarray(crop[..., :3]).resize((50, 50), Image.Resampling.BOX)) - whole).mean() < 6


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}])
def test_both_decoders_give_the_same_view(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for image in (noise(90, 70), noise(90, 70).convert("L")):
        data = encode(image, "JPEG", **options)
        fast = [decode.training_view(data, DataConfig(), 32, 0, position)[..., :3] for position in range(8)]
        with monkeypatch.context() as patch:
            patch.setattr(jpeg, "simplejpeg", None)
            slow = [decode.training_view(data, DataConfig(), 32, 0, position)[..., :3] for position in range(8)]
        assert all((a == b).all() for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("data", [encode(noise(), "JPEG")[:300], encode(noise(), "JPEG")[:-200], b"\xff\xd8\xff", b""])
def test_a_view_of_bytes_that_are_no_complete_image_is_a_broken_sample(data: bytes) -> None:
    with pytest.raises(BrokenSampleError, match="undecodable picture"):
        decode.training_view(data, DataConfig(), 32, 0, 0)


def segment(marker: int, payload: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(payload) + 2).to_bytes(2, "big") + payload


SIXTH = Image.Exif()
SIXTH[0x0112] = 6
EXIF = segment(0xE1, SIXTH.tobytes())
XMP = segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>')
COLOURS = 2 * segment(0xE2, bytes(60_000))
"""As long as a colour profile may be."""


@pytest.mark.parametrize(
    "before", [EXIF, COLOURS + EXIF, b"\xff\xff" + EXIF, XMP], ids=["EXIF", "behind a profile", "behind fill bytes", "XMP"]
)
def test_a_rotated_image_is_cropped_upright(before: bytes) -> None:
    image = Image.new("RGB", (400, 200), "red")
    image.paste("blue", (0, 0, 400, 100))  # upright: the right half
    data = encode(image, "JPEG", quality=95)
    data = data[:2] + before + data[2:]
    for side in (40, 150):  # decoded smaller, and whole
        config = DataConfig(crop_scale_min=1.0, rand_augment=False, flip=False)
        left, right = np.split(decode.training_view(data, config, side, 0, 0)[..., :3].mean(0), 2)
        assert left[2:-2, 0].min() > 200 and right[2:-2, 2].min() > 200


def test_what_says_nothing_of_a_turn_leaves_a_jpeg_to_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(), "JPEG")
    monkeypatch.setattr(decode, "decode_image", None)
    for before in (b"", COLOURS, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta/>"), segment(0xED, EXIF)):
        assert decode.training_view(data[:2] + before + data[2:], DataConfig(), 32, 0, 0).shape == (32, 32, 4)


def test_a_crop_resized_differs_from_pillows_by_two_levels_at_most() -> None:
    image = noise(430, 380)
    for side in (256, 500):
        ours = decode.scale_to(np.array(image.convert("RGBA")), side)[..., :3].astype(int)
        assert np.abs(ours - np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))).max() <= 2


def test_a_view_is_a_function_of_seed_and_position() -> None:
    data, config = encode(noise()), DataConfig()

    def view(seed: int, position: int) -> np.ndarray:
        return decode.training_view(data, config, 32, seed, position)

    assert view(0, 7).shape == (32, 32, 4) and view(0, 7).dtype == np.uint8
    random.seed(1)
    first = view(0, 7)
    random.seed(2)
    np.random.seed(3)
    assert np.array_equal(first, view(0, 7))
    assert not np.array_equal(first, view(0, 8)) and not np.array_equal(first, view(1, 7))


def test_augmenting_leaves_the_global_generators_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    decode.training_view(encode(noise()), DataConfig(), 32, 0, 0)
    assert (random.random(), np.random.random()) == expected


def test_flip_and_rand_augment_can_be_turned_off() -> None:
    data = encode(noise(32, 32))
    whole = decode.resize(data, LIMIT, 32)
    still, flipping = (DataConfig(flip=flip, rand_augment=False, crop_scale_min=1.0) for flip in (False, True))

    def view(config: DataConfig, position: int) -> torch.Tensor:
        return normalise(torch.from_numpy(decode.training_view(data, config, 32, 0, position)))

    assert all(torch.equal(view(still, position), whole) for position in range(100))
    assert any(torch.equal(view(flipping, position), whole.flip(2)) for position in range(100))


def test_crops_keep_to_area_and_ratio() -> None:
    for position in range(300):
        left, top, right, bottom = crop_box(400, 300, 0.2, randomness.generator(0, position, randomness.CROP))
        width, height = right - left, bottom - top
        assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
        assert 0.19 <= width * height / 120_000 <= 1.0 and 0.74 <= width / height <= 1.35
    assert crop_box(1000, 10, 0.9, random.Random(0)) == (493, 0, 506, 10)


def test_evaluation_resizes_the_full_image_and_normalises_as_released() -> None:
    pixels = decode.resize(encode(Image.new("RGB", (9, 5), (255, 0, 128))), LIMIT, 4)
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, (128 / 255 - 0.40821073) / 0.27577711]
    torch.testing.assert_close(pixels, torch.tensor(expected).view(3, 1, 1).expand(3, 4, 4), atol=1e-5, rtol=0)
