"""Picture bytes to normalised tensors: decoding, the training augmentation, the evaluation resize.

Whatever is random is drawn from a generator the caller gives, so an image is a pure function of (bytes, seed, position).
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.broken import BrokenSampleError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
FORMATS = ("JPEG", "PNG", "WEBP")

AUGMENT_OPS = ("AutoContrast", "Equalize", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
"""RandAugment's list without changes of hue or saturation; together with the identity these are the released ten."""
AUGMENT_LAYERS, AUGMENT_MAGNITUDE, AUGMENT_PROBABILITY = 2, 7, 0.5
_TRANSLATION = 10 / 256  # of the side at magnitude 10: the released 10 pixels at 256
_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10

_SCALE = np.float32(1 / 255) / np.array(STD, np.float32)
_SHIFT = np.array(MEAN, np.float32) / np.array(STD, np.float32)


def decode_image(data: bytes, max_pixels: int, min_side: int = 0) -> Image.Image:
    """An upright RGB picture; transparency becomes white.

    With `min_side`, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep that many pixels.

    Raises:
        BrokenSampleError: not a whole JPEG, PNG or WebP, or more than `max_pixels`.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is checked below, before any pixel is decoded
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise BrokenSampleError("too many pixels", f"{image.width} x {image.height}")
        if min_side and image.format == "JPEG":
            image.draft(None, (min_side, min_side))
        image.load()
        return _to_rgb(_upright(image))
    except (BrokenSampleError, MemoryError):
        raise
    except Exception as error:  # a decoder fed foreign bytes may raise anything; the sample is what is at fault
        raise BrokenSampleError("undecodable picture", f"{type(error).__name__}: {error}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels, which were decoded
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 or 32 bits a pixel: PIL's own conversion would clip at 255
        values = np.asarray(image).astype(np.float64)
        if values.max(initial=0) > 255:
            values /= 257
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def crop_box(width: int, height: int, scale_min: float, generator: random.Random) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of a share of the area from `scale_min` to 1, its sides' ratio from 3/4 to 4/3."""
    for _ in range(_CROP_TRIES):
        area = width * height * (scale_min + (1 - scale_min) * generator.random())
        ratio = math.exp(math.log(_CROP_RATIO[0]) + math.log(_CROP_RATIO[1] / _CROP_RATIO[0]) * generator.random())
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.random() * (width - w + 1)), int(generator.random() * (height - h + 1))
            return left, top, left + w, top + h
    # No try fitted (a very long picture): the largest central box of an allowed ratio.
    w, h = min(width, max(1, round(height * _CROP_RATIO[1]))), min(height, max(1, round(width / _CROP_RATIO[0])))
    return (width - w) // 2, (height - h) // 2, (width - w) // 2 + w, (height - h) // 2 + h


def normalise(image: Image.Image) -> Tensor:
    """float32 (3, H, W), each channel less MEAN over STD."""
    pixels: NDArray[np.float32] = np.asarray(image, np.float32) * _SCALE - _SHIFT
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def augment(data: bytes, config: DataConfig, image_size: int, seed: int, position: int) -> Tensor:
    """The training view of a picture, float32 (3, image_size, image_size).

    A random crop resized (bicubic), a flip, RandAugment(2, 7), normalisation: the released order.
    """
    generator = randomness.generator(seed, position, randomness.CROP)
    # The smallest crop has sides of at least sqrt(scale_min * 3/4) of the picture's shorter side.
    needed = math.ceil(image_size / math.sqrt(config.crop_scale_min * _CROP_RATIO[0]))
    image = decode_image(data, config.max_pixels, needed)
    image = image.crop(crop_box(*image.size, config.crop_scale_min, generator))
    image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    if config.flip and generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.rand_augment:
        with randomness.seeded_globals(randomness.mix(seed, position, randomness.AUGMENT)):
            for operation in random.choices(_augment_ops(image_size), k=AUGMENT_LAYERS):
                image = operation(image)
    return normalise(image)


def resize(data: bytes, max_pixels: int, image_size: int) -> Tensor:
    """The evaluation view: the whole picture resized (bicubic) to a square, float32 (3, image_size, image_size)."""
    image = decode_image(data, max_pixels).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return normalise(image)


@lru_cache(maxsize=4)
def _augment_ops(image_size: int) -> list[Callable[[Image.Image], Image.Image]]:
    """The identity and timm's AUGMENT_OPS, which draw from Python's global generator."""
    from timm.data.auto_augment import AugmentOp  # here: timm is slow to import, evaluation needs none of it

    settings = {
        "translate_const": image_size * _TRANSLATION,
        "img_mean": (128, 128, 128),
        "interpolation": Image.Resampling.BILINEAR,
    }
    make: Any = AugmentOp
    return [_identity, *(make(name, AUGMENT_PROBABILITY, AUGMENT_MAGNITUDE, settings) for name in AUGMENT_OPS)]


def _identity(image: Image.Image) -> Image.Image:
    return image
