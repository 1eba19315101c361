"""What is said of a picture is true of its pixels, whatever file format or decoder held them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from data_tools.content import images
from tests.data_tools.sample_images import encoded, jpeg, scene


def distance(a: Image.Image, b: Image.Image) -> int:
    hashes = images.perceptual_hashes([encoded(a, "PNG"), encoded(b, "PNG")])
    return int(np.bitwise_count(hashes[0] ^ hashes[1]))


def test_both_decoders_give_the_same_pixels() -> None:
    for mode in ("RGB", "L"):
        content = encoded(scene(0, 99, 77).convert(mode))
        assert (images.decode(content).pixels == np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).all()


def test_equal_pixels_in_other_formats_have_equal_pixel_hashes() -> None:
    pixels = scene(1)
    opaque = pixels.convert("RGBA")
    hashes = {
        images.decode(encoded(image, kind)).pixel_hash() for image, kind in ((pixels, "PNG"), (pixels, "BMP"), (opaque, "PNG"))
    }
    assert len(hashes) == 1
    assert images.decode(encoded(pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG")).pixel_hash() not in hashes


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "not a picture"),
        (jpeg(0)[:-300], "cut off"),
        (encoded(scene(0), "PNG")[:-300], "cut off"),
        (encoded(scene(0), "WEBP")[:-300], "damaged"),
    ],
)
def test_broken_files_are_found_by_reason(content: bytes, reason: str) -> None:
    with pytest.raises(images.BrokenImage, match=reason):
        images.decode(content)


def test_a_bomb_is_refused_from_its_header() -> None:
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(images.BrokenImage, match="too many pixels"):
        images.decode(bomb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_turned_by_exif_looks_like_its_upright_form(orientation: int) -> None:
    upright = scene(3, 128, 96)  # whole fields: the thumbnail of a mirrored picture is the mirrored thumbnail
    operations = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(operations[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = images.decode(encoded(stored, "PNG", exif=exif))
    assert turned.orientation == orientation
    plain = images.decode(encoded(upright, "PNG")).thumbnail().astype(int)
    assert np.abs(turned.thumbnail() - plain).max() <= 1


def test_transparency_counts_as_white() -> None:
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert (images.decode(encoded(clear, "PNG")).thumbnail() == 255).all()


def test_hash_survives_recompression_and_scaling_and_tells_pictures_apart() -> None:
    big = scene(4, 640, 480)
    assert distance(big, Image.open(io.BytesIO(encoded(big, quality=40)))) <= 3
    assert distance(big, big.resize((200, 150))) <= 2
    assert min(distance(scene(a), scene(b)) for a in range(4) for b in range(a)) > 10


def test_fast_hashes_agree_with_those_of_the_full_decode() -> None:
    # Worst of 60 pictures measured: 4 bits, mean 0.5.
    contents = [jpeg(seed, width=640, height=480) for seed in range(20)]
    fast, full = (images.perceptual_hashes(contents, fast=fast) for fast in (True, False))
    assert np.bitwise_count(fast ^ full).max() <= 6


def test_variance_finds_flat_pictures_and_colours_tell_flags_apart() -> None:
    flat, red, blue = (Image.new("RGB", (32, 32), c) for c in ("white", "red", "blue"))
    flags = [
        Image.composite(scene(5), colour.resize((64, 48)), Image.linear_gradient("L").resize((64, 48))) for colour in (red, blue)
    ]
    found = images.signatures(np.stack([images.decode(encoded(p, "PNG")).thumbnail() for p in (flat, *flags)]))
    assert found.variance[0] == 0 and found.variance[1:].min() > 25
    assert np.abs(found.colours[1].astype(int) - found.colours[2]).max() > 100


def test_large_pictures_are_scaled_upright_and_small_ones_stay_as_they_are() -> None:
    small = jpeg(6)
    assert images.for_shard(small, 64, 90) == (small, "jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    content, extension = images.for_shard(encoded(scene(6, 200, 100), exif=exif), 50, 90)
    assert (extension, Image.open(io.BytesIO(content)).size) == ("jpg", (25, 50))
    content, extension = images.for_shard(encoded(scene(6, 200, 100).convert("LA"), "PNG"), 50, 90)
    assert (extension, Image.open(io.BytesIO(content)).mode) == ("png", "RGB")
