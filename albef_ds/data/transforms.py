"""Picture bytes to pixels: decoding, the training view, the evaluation resize.

Whatever is random is drawn from a generator the caller gives, so an image is a pure function of (bytes, seed, position).
JPEG goes through simplejpeg (libjpeg-turbo) when it is installed, which gives Pillow's pixels sooner; whatever it
objects to, and every other format, goes through Pillow. What RandAugment does is in `albef_ds.data.augment`.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.augment import Pixels, rand_augment
from albef_ds.data.broken import BrokenSampleError
from albef_ds.pixels import normalise

try:
    import simplejpeg
except ImportError:  # an extra; without it decoding takes longer
    simplejpeg = None

FORMATS = ("JPEG", "PNG", "WEBP")

_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10


def decode_image(data: bytes, max_pixels: int, scale_for: Callable[[int, int], int] | None = None) -> Image.Image:
    """An upright RGB picture; transparency becomes white.

    `scale_for` is told the upright picture's width and height and says by which of 1, 2, 4 or 8 a JPEG may be decoded
    smaller; other formats stay as they are.

    Raises:
        BrokenSampleError: not a whole JPEG, PNG or WebP, or more than `max_pixels`.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is checked below, before any pixel is decoded
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check_size(image.width, image.height, max_pixels)
        if scale_for is not None:
            width, height = image.size[:: -1 if _is_on_its_side(image) else 1]
            scale = scale_for(width, height)
            if scale > 1 and image.format == "JPEG":
                image.draft(None, (image.width // scale, image.height // scale))
        image.load()
        return _to_rgb(_upright(image))
    except (BrokenSampleError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise BrokenSampleError("undecodable picture", "of no known format") from None
    except Exception as error:  # a decoder fed foreign bytes may raise anything; the sample is what is at fault
        raise BrokenSampleError("undecodable picture", f"{type(error).__name__}: {error}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BrokenSampleError("too many pixels", f"{width} x {height}")


def _is_on_its_side(image: Image.Image) -> bool:
    try:
        return image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    except Exception:  # as in `_upright`
        return False


class _Crop:
    """A random crop, drawn once the size of the picture is known, and how much smaller a JPEG may be for it."""

    def __init__(self, side: int, scale_min: float, generator: random.Random) -> None:
        self._side, self._scale_min, self._generator = side, scale_min, generator
        self._size: tuple[int, int] | None = None
        self._box = (0, 0, 1, 1)

    def scale_for(self, width: int, height: int) -> int:
        """The largest of 8, 4, 2 and 1 that leaves the crop `side` pixels both ways."""
        if self._size is None:
            self._size = width, height
            self._box = crop_box(width, height, self._scale_min, self._generator)
        left, top, right, bottom = self._box
        return next((scale for scale in (8, 4, 2) if min(right - left, bottom - top) >= scale * self._side), 1)

    def box(self, width: int) -> tuple[int, ...]:
        """Left, top, right and bottom in a picture that came out `width` pixels wide."""
        assert self._size is not None
        scale = round(self._size[0] / width)
        return tuple(edge // scale for edge in self._box)


def decode_crop(data: bytes, max_pixels: int, side: int, scale_min: float, generator: random.Random) -> Pixels:
    """A random crop of the picture (`crop_box`), uint8 (h, w, 4), the fourth byte meaningless.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where the crop keeps `side` pixels both ways.

    Raises:
        BrokenSampleError: as `decode_image`.
    """
    crop = _Crop(side, scale_min, generator)
    size = _plain_jpeg_size(data)
    if size is not None:
        _check_size(*size, max_pixels)
        scale = crop.scale_for(*size)
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGBX", min_width=-(-size[0] // scale), min_height=-(-size[1] // scale))
        except ValueError:  # damaged, or merely odd: Pillow decides
            pass
        else:
            left, top, right, bottom = crop.box(pixels.shape[1])
            return np.asarray(pixels[top:bottom, left:right])
    image = decode_image(data, max_pixels, crop.scale_for)
    left, top, right, bottom = crop.box(image.width)
    return np.array(image.crop((left, top, right, bottom)).convert("RGBA"))


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG that needs nothing but decoding: no turning, no print colours."""
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or b"Exif\0\0" in data[: 1 << 16]:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (width, height) if space in ("YCbCr", "Gray") else None


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
    """A box (left, top, right, bottom) of a share of the area from `scale_min` to 1, its sides' ratio from 3/4 to 4/3.

    A `scale_min` of 1 is the whole picture, whatever its ratio.
    """
    if scale_min == 1.0:
        return 0, 0, width, height
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


def training_view(data: bytes, config: DataConfig, image_size: int, seed: int, position: int) -> Pixels:
    """The training view of a picture: uint8 (image_size, image_size, 4), the fourth byte meaningless.

    A random crop resized (bicubic), a flip, RandAugment(2, 7): the released order.

    Raises:
        BrokenSampleError: as `decode_image`.
    """
    generator = randomness.generator(seed, position, randomness.CROP)
    crop = decode_crop(data, config.max_pixels, image_size, config.crop_scale_min, generator)
    pixels = scale_to(crop, image_size)
    if config.flip and generator.random() < 0.5:
        pixels = np.ascontiguousarray(pixels.view(np.uint32)[:, ::-1]).view(np.uint8)
    if config.rand_augment:
        pixels = rand_augment(pixels, randomness.generator(seed, position, randomness.AUGMENT))
    return pixels


def scale_to(pixels: Pixels, side: int) -> Pixels:
    """`pixels` (h, w, 4) resized (bicubic, antialiased) to (side, side, 4)."""
    # The kernel is fast where channels lie side by side and says so by its strides, which this copy makes true of a crop.
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(memory_format=torch.channels_last)
    scaled = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False)
    result: Pixels = scaled[0].permute(1, 2, 0).contiguous().numpy()
    return result


def resize(data: bytes, max_pixels: int, image_size: int) -> Tensor:
    """The evaluation view: the whole picture resized (bicubic) to a square, float32 (3, image_size, image_size)."""
    image = decode_image(data, max_pixels).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return normalise(torch.from_numpy(np.array(image)))
