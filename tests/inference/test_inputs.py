"""Images as users give them: of every mode, as arrays and tensors; and what is drawn is what the model read."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from albef_ds.cli import ground as ground_command
from albef_ds.cli import search as search_command
from albef_ds.common.errors import DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.annotations.records import ExpressionRecord
from albef_ds.data.evaluation_sets.annotated import TextImageSet
from albef_ds.data.images.normalise import to_pil_image
from albef_ds.inference.inputs import many, picture_of, pixels_of
from tests.inference.tiny_models import model_folder, picture

SIDE = 32
DATA = DataConfig()


def greys(height: int = 30, width: int = 40) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).round().astype(np.uint8)


@pytest.mark.parametrize("mode", ["I;16", "I", "F", "I;16B", "F of 0 to 1"])
def test_deep_greys_are_scaled_and_not_clipped(mode: str) -> None:
    levels = greys()
    images = {
        "I;16": Image.fromarray(levels.astype(np.uint16) * 257),
        "I": Image.fromarray(levels.astype(np.int32) * 257),
        "F": Image.fromarray(levels.astype(np.float32) * 257),
        "I;16B": Image.frombytes("I;16B", (40, 30), (levels.astype(">u2") * 257).tobytes()),
        "F of 0 to 1": Image.fromarray((levels / 255).astype(np.float32)),
    }
    found = np.asarray(picture_of(images[mode], SIDE, DATA)).astype(int)
    assert np.abs(found - levels[..., None].astype(int)).max() <= 1


def test_arrays_are_taken_as_the_pictures_they_hold() -> None:
    image = picture(1)
    colours, clear = np.array(image), np.array(image.convert("RGBA"))
    clear[:10, :, 3] = 0
    assert torch.equal(pixels_of(colours, SIDE, DATA), pixels_of(image, SIDE, DATA))
    assert torch.equal(pixels_of(clear, SIDE, DATA), pixels_of(Image.fromarray(clear), SIDE, DATA))
    assert torch.equal(pixels_of(colours[:, ::-1], SIDE, DATA), pixels_of(Image.fromarray(colours[:, ::-1].copy()), SIDE, DATA))
    deep = greys().astype(np.uint16) * 257
    assert torch.equal(pixels_of(greys(), SIDE, DATA), pixels_of(deep, SIDE, DATA))
    assert len(many(colours)) == 1 and len(many(np.stack([colours, colours]))) == 2


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 2), np.uint8), np.zeros(5, np.uint8),
        np.zeros((0, 8, 3), np.uint8), np.zeros((8, 8, 3), np.int64), np.array("a.jpg"), torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(3, 0, 8, dtype=torch.uint8),
    ],
    ids=lambda image: f"{type(image).__name__} {image.dtype} {tuple(image.shape)}",
)  # fmt: skip
def test_other_arrays_and_tensors_are_refused_in_one_line(image: np.ndarray | torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"an image is an? (array|tensor) of (shape|type) .*: give uint8") as caught:
        pixels_of(image, SIDE, DATA)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", [b"abc", None, 5], ids=repr)
def test_what_is_no_image_is_refused_in_one_line(image: Any) -> None:
    for given in many(image):
        with pytest.raises(DataError, match=r"an image is of type \w+: give a path, a PIL image, an array or a tensor"):
            pixels_of(given, SIDE, DATA)


def test_a_large_image_in_memory_is_refused_as_a_file_is() -> None:
    with pytest.raises(DataError, match="too many pixels"):
        pixels_of(picture(1), SIDE, DataConfig(max_pixels=100))


def test_normalised_pixels_are_drawn_as_they_were() -> None:
    pixels = pixels_of(picture(1, SIDE, SIDE), SIDE, DATA)
    assert np.array_equal(np.asarray(picture_of(pixels, SIDE, DATA)), np.asarray(picture(1, SIDE, SIDE)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, and in `photos` one picture of 90 x 60 whose file lies on its side."""
    root = tmp_path_factory.mktemp("drawn")
    model_folder(root, "pretrain")
    upright = Image.new("RGB", (90, 60), "white")
    ImageDraw.Draw(upright).rectangle((60, 5, 85, 25), fill="red")
    exif = Image.Exif()
    exif[0x0112] = 6
    (root / "photos").mkdir()
    upright.transpose(Image.Transpose.ROTATE_90).save(root / "photos" / "turned.jpg", exif=exif, quality=95)
    upright.save(root / "upright.png")
    return root


def test_ground_draws_over_the_upright_image(folder: Path) -> None:
    drawn = []
    for image in ("photos/turned.jpg", "upright.png"):
        output = folder / f"{Path(image).stem}-drawn.png"
        arguments = ["--model", str(folder / "pretrain"), "--image", str(folder / image), "--text", "red cup", "--device", "cpu"]
        assert ground_command.main([*arguments, "--output", str(output)]) == 0
        drawn.append(Image.open(output).convert("RGB"))
    assert drawn[0].size == drawn[1].size
    assert np.abs(np.asarray(drawn[0]).astype(int) - np.asarray(drawn[1])).mean() < 8  # JPEG, and maps of nearly equal pixels


def test_a_search_page_shows_the_upright_image(folder: Path) -> None:
    page = folder / "page.html"
    arguments = ["--model", str(folder / "pretrain"), "--images", str(folder / "photos"), "--text", "red cup", "--device", "cpu"]
    assert search_command.main([*arguments, "--output", str(page)]) == 0
    [shown] = re.findall(r"base64,([^\"']+)", page.read_text())
    image = Image.open(io.BytesIO(base64.b64decode(shown))).convert("RGB")
    assert image.size == (90, 60)
    red, green, _ = image.getpixel((72, 15))
    assert red > 200 and green < 80


def test_grounding_compares_the_annotated_size_with_the_images(folder: Path) -> None:
    def images(width: int, height: int) -> torch.Tensor:
        record = ExpressionRecord("photos/turned.jpg", "red cup", 1, (0, 0, 9, 9), (), width, height, "val")
        return TextImageSet([record], DataConfig(image_root=str(folder)), SIDE).batch([0]).images

    assert images(90, 60).shape == images(900, 600).shape == (1, 3, SIDE, SIDE)
    red, green, _ = to_pil_image(images(90, 60)[0]).getpixel((26, 8))  # as TensorBoard draws it: upright
    assert red > 200 and green < 80
    for width, height in ((60, 90), (90, 63), (100, 60)):
        with pytest.raises(
            DataError, match=rf"turned\.jpg has 90 x 60 pixels, but its annotation {width} x {height}: give the image"
        ):
            images(width, height)
