"""Damaged files of every format are refused by all ways to read them, or by none, and then all see the same pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode, gpu_jpeg, jpeg, read
from albef_ds.data.images.crop import Crop
from data_tools.content import images
from tests.data.images.image_files import encoded, smooth, turned

LIMIT = 10**6
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("JPEG", {}),
    "progressive": ("JPEG", {"progressive": True}),
    "restarts": ("JPEG", {"restart_marker_rows": 1, "subsampling": 0}),
    "turned": ("JPEG", {"exif": turned(6)}),
    "MPO": ("MPO", {"save_all": True, "append_images": [smooth(seed=1)]}),
    "PNG": ("PNG", {}),
    "turned PNG": ("PNG", {"exif": turned(6)}),
    "WebP": ("WEBP", {}),
    "lossless WebP": ("WEBP", {"lossless": True}),
    "GIF": ("GIF", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {"compression": "tiff_lzw"}),
    "JPEG 2000": ("JPEG2000", {}),
}


def rough(form: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    kind, options = FORMS[form]
    return encoded(Image.blend(smooth(128, 96), Image.fromarray(noise), 0.2), kind, **options)


def mutations(data: bytes, count: int) -> list[bytes]:
    """Copies that are cut, have a bit changed, a byte lost or a run of zeros: near the header and all over the file."""
    rng = np.random.default_rng(len(data))
    places = [*rng.integers(2, min(700, len(data)), count), *rng.integers(2, len(data) - 1, count)]
    made = []
    for number, place in enumerate(map(int, places)):
        changed = bytearray(data)
        if number % 4 == 0:
            del changed[place:]
        elif number % 4 == 1:
            del changed[place]
        elif number % 4 == 2:
            changed[place : place + 9] = bytes(9)
        else:
            changed[place] ^= 1 << int(rng.integers(8))
        made.append(bytes(changed))
    return made


def crop_of(data: bytes, side: int) -> np.ndarray:
    return decode.decode_crop(data, LIMIT, Crop(side, 1.0, randomness.generator(0, 0, randomness.CROP)))[..., :3]


def outcome(make: Any) -> bytes | None:
    """The pixels, or None for a refusal."""
    try:
        return np.ascontiguousarray(make()).tobytes()
    except (BrokenSampleError, images.BrokenImage):
        return None


def scanned(data: bytes) -> np.ndarray:
    found = images.decode(data, max_pixels=LIMIT)
    return images.turn(np.asarray(read.on_white(Image.fromarray(found.pixels))), found.orientation)


@pytest.mark.parametrize("form", FORMS)
def test_all_ways_to_read_a_file_refuse_the_same_bytes(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused, files = 0, mutations(rough(form), 20)
    for data in files:
        found: dict[str, bytes | None] = {}
        for decoder in (jpeg.simplejpeg, None) if "JPEG" in FORMS[form] or form == "MPO" else (jpeg.simplejpeg,):
            monkeypatch.setattr(jpeg, "simplejpeg", decoder)
            found |= {
                f"evaluation {decoder}": outcome(lambda data=data: read.decode_image(data, LIMIT)),
                f"training {decoder}": outcome(lambda data=data: crop_of(data, 10_000)),
                f"scan {decoder}": outcome(lambda data=data: scanned(data)),
            }
            small = [
                outcome(lambda data=data: crop_of(data, 12)),
                outcome(lambda data=data: images.decode(data, max_pixels=LIMIT, fast=True).thumbnail()),
            ]
            assert len({pixels is None for pixels in (*small, *found.values())}) == 1, "one way refuses what another takes"
        assert len(set(found.values())) == 1, "two ways see other pixels"
        refused += None in found.values()
    assert refused >= len(files) // 8


def test_no_cut_off_jpeg_is_given_to_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_jpeg, "cropped_view", lambda *_: np.zeros((32, 32, 4), np.uint8))  # takes anything, as nvJPEG may
    monkeypatch.setattr(gpu_jpeg, "device", lambda: None)
    config = DataConfig(jpeg_device="cuda", rand_augment=False)
    whole = rough("baseline")
    assert not decode.training_view(whole, config, 32, 0, 0).any()
    for share in (0.1, 0.5, 0.9, 0.99):
        with pytest.raises(BrokenSampleError, match="undecodable picture"):
            decode.training_view(whole[: int(share * len(whole))], config, 32, 0, 0)
