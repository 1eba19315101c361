"""Every image file becomes the same upright RGB image in every way to read it: all containers, modes, depths, orientations."""

from __future__ import annotations

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from albef_ds.data import randomness
from albef_ds.data.images import decode, jpeg, read
from albef_ds.data.images.crop import Crop
from data_tools.content import images
from tests.data.images.image_files import encoded, odd_files, plain_rgb, reference, smooth, turn, turned

LIMIT = 10**6
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B")
LOSSLESS = ("PNG", "TIFF", "BMP", "TGA", "PPM", "JPEG2000", "WEBP", "QOI")
OPTIONS = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 90, "speed": 10}}
UNREADABLE = ("EPS", "WMF", "PDF", "PALM", "XVTHUMB", "BUFR", "GRIB", "HDF5", "MPEG")
"""Formats with a Pillow module that is not for reading images in this process."""


def ways(data: bytes) -> dict[str, NDArray[np.uint8]]:
    """The image by every way to read it: the evaluation, the training view, the scan, and what a shard holds of it."""
    crop = decode.decode_crop(data, LIMIT, Crop(10_000, 1.0, randomness.generator(0, 0, randomness.CROP)))
    scanned = images.decode(data)
    upright = images.turn(np.asarray(read.on_white(Image.fromarray(scanned.pixels))), scanned.orientation)
    stored = images.for_shard(data, 0, 90)[0]
    found = {"evaluation": read.decode_image(data, LIMIT), "shard": read.decode_image(stored, LIMIT)}
    return {"training": crop[..., :3], "scan": upright, **{name: np.asarray(image) for name, image in found.items()}}


def sample(mode: str) -> Image.Image:
    """A smooth image of `mode`, with all its levels, and with all degrees of transparency if it has any."""
    image, ramp = smooth(), np.linspace(0, 255, 40, dtype=np.uint8)
    alpha = Image.fromarray(np.tile(ramp, (32, 1)))
    if mode in ("LA", "RGBA", "La", "RGBa", "PA"):
        image.putalpha(alpha)
        by_way_of = {"La": "LA", "LA": "LA", "PA": "RGBA", "RGBa": "RGBA", "RGBA": "RGBA"}[mode]
        image = image.convert(by_way_of)
        return image if mode == by_way_of else image.convert(mode)
    grey = np.asarray(image.convert("L")).astype(np.float64)
    if mode == "F":
        return Image.fromarray((grey * 37.5 - 1000).astype(np.float32))
    if mode == "I":
        return Image.fromarray((grey * 257).astype(np.int32))
    if mode.startswith("I;16"):
        little = Image.fromarray((grey * 257).astype(np.uint16))
        return little if mode == "I;16" else little.convert("I").convert(mode)
    if mode == "LAB":
        return Image.merge("LAB", image.split())
    return image.convert(mode)


@pytest.mark.filterwarnings("ignore:IM image format")
def test_every_mode_that_every_container_can_hold_is_read_as_pillow_reads_it() -> None:
    read_back = []  # not ICNS, which is 1024 pixels wide whatever it holds
    Image.init()
    for form, mode in itertools.product(sorted(set(Image.SAVE) & set(read.FORMATS) - {"ICNS"}), MODES):
        try:
            data = encoded(sample(mode), form, **OPTIONS.get(form, {}))
            stored = Image.open(io.BytesIO(data))
            stored.load()
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the container does not hold this mode
        wanted = reference(data) if stored.mode != "LAB" else np.asarray(read.as_rgb(stored))
        for name, pixels in ways(data).items():
            difference = np.abs(pixels.astype(int) - wanted)
            assert pixels.shape == wanted.shape and difference.max() <= 1, (form, mode, stored.mode, name, difference.max())
        if form in LOSSLESS and stored.mode == mode != "LAB":
            assert np.abs(plain_rgb(sample(mode)).astype(int) - wanted).max() <= 1, (form, mode)
        read_back.append((form, mode))
    assert len(read_back) >= 120, read_back  # 158 with Pillow 13
    assert {form for form, _ in read_back} >= {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA"}


@pytest.mark.parametrize("form", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_orientation_is_applied_exactly_once_in_every_container(form: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    for orientation in range(1, 9):
        options = {"save_all": True, "append_images": [smooth(seed=1)]} if form == "MPO" else OPTIONS.get(form, {})
        plain = np.asarray(Image.open(io.BytesIO(encoded(smooth(), form, **options))).convert("RGB"))
        data = encoded(smooth(), form, exif=turned(orientation), **options)
        for name, pixels in ways(data).items():
            assert np.array_equal(pixels, turn(plain, orientation)), (orientation, name)


def test_orientations_behind_the_pixels_and_in_xmp_are_found() -> None:
    png, exif = encoded(smooth(), exif=turned(6)), b"eXIf"
    start = png.index(exif) - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    behind = png[:start] + png[end:-12] + png[start:end] + png[-12:]
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    for data in (behind, encoded(smooth(), "WEBP", lossless=True, xmp=xmp)):
        assert all(np.array_equal(pixels, turn(np.asarray(smooth()), 6)) for pixels in ways(data).values())


@pytest.mark.parametrize("decoder", ["simplejpeg", "Pillow"])
def test_odd_but_sound_files_are_read_whole(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if decoder == "Pillow":
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    plain = {"jpg": reference(encoded(smooth(), "JPEG")), "png": np.asarray(smooth()), "webp": np.asarray(smooth())}
    for name, data in odd_files().items():
        wanted = plain[name.rpartition(".")[2]] if name != "sampling.jpg" else np.full((32, 64, 3), 228, np.uint8)
        for way, pixels in ways(data).items():
            assert np.array_equal(pixels, wanted), (name, way)


def test_palettes_of_few_colours_and_lab_are_read() -> None:
    for bits in (1, 2, 4, 8):
        image = smooth().quantize(1 << bits)
        assert all(np.array_equal(pixels, image.convert("RGB")) for pixels in ways(encoded(image, bits=bits)).values()), bits
    lab = Image.merge("LAB", [Image.new("L", (8, 8), level) for level in (255, 128, 128)])
    assert all(pixels.min() >= 253 for pixels in ways(encoded(lab, "TIFF")).values())  # white


def test_images_in_memory_are_read_as_files_are() -> None:
    image = Image.fromarray(np.arange(0, 48 * 1000, 1000, dtype=np.uint16).reshape(6, 8))
    assert np.array_equal(read.as_rgb(image), read.decode_image(encoded(image), LIMIT))


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (np.array([[0, 100, 255]], np.uint16), [0, 100, 255]),
        (np.array([[0, 256, 25_700, 65_535]], np.uint16), [0, 1, 100, 255]),
        (np.array([[0, 65_535]], np.int32), [0, 255]),
        (np.array([[0, 131_070, 655_350]], np.int32), [0, 51, 255]),
        (np.array([[-1000, 0, 1550]], np.int32), [0, 100, 255]),
        (np.array([[0, 0.4, 1]], np.float32), [0, 102, 255]),
        (np.array([[0.4, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, 0.4, np.inf, -np.inf, 1]], np.float32), [0, 102, 255, 0, 255]),
        (np.array([[0, 0]], np.float32), [0, 0]),
    ],
)
def test_deep_greys_are_scaled_and_never_clipped(levels: NDArray[np.generic], expected: list[int]) -> None:
    assert np.asarray(read.as_rgb(Image.fromarray(levels)))[0, :, 0].tolist() == expected


def test_the_transparent_level_of_a_deep_grey_becomes_white() -> None:
    data = encoded(Image.fromarray(np.array([[1000, 25_700]], np.uint16)), transparency=1000)
    assert np.asarray(read.decode_image(data, LIMIT))[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_the_transparent_level_of_a_shallow_grey_becomes_white(depth: int) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    levels = min(2**depth, 8)
    row = int("".join(f"{level:0{depth}b}" for level in range(levels)).ljust(-(-levels * depth // 8) * 8, "0"), 2)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", levels, 1, depth, 0, 0, 0, 0))
    png += chunk(b"tRNS", struct.pack(">H", 1))
    png += chunk(b"IDAT", zlib.compress(b"\0" + row.to_bytes(-(-levels * depth // 8), "big"))) + chunk(b"IEND", b"")
    scale = 255 // (2**depth - 1)
    assert np.asarray(read.decode_image(png, 100))[0, :, 0].tolist() == [
        255 if level == 1 else level * scale for level in range(levels)
    ]


def test_decoders_that_start_another_program_are_never_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    def started(*_: object, **__: object) -> None:
        raise AssertionError("an interpreter was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    assert not set(read.FORMATS) & set(UNREADABLE)
    with pytest.raises(read.UnusableImageError, match="undecodable picture"):
        read.decode_image(encoded(smooth(), "EPS"), LIMIT)
