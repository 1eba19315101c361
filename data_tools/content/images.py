"""Decodes images and describes them: pixel hash, perceptual hash, variance, colour signature.

Every number describes the image as displayed: EXIF orientation applied, transparency over white. JPEG is decoded by
simplejpeg (libjpeg-turbo) if installed, everything else by Pillow; both give the same pixels.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data_tools.config import MAX_PIXELS

try:
    import simplejpeg
except ImportError:  # pragma: no cover - the extra `data` brings it
    simplejpeg = None

SIDE = 32
"""Side in pixels of the thumbnail from which hash, variance and colours are computed."""
_DCT_SIDE = 8
FIELDS = 8
"""The colour signature holds the mean colours of FIELDS x FIELDS fields."""
COLOUR_BYTES = FIELDS * FIELDS * 3
_FAST_SIDE = 56  # with this as smallest side, DCT scaling moves the hash by about one bit
Image.MAX_IMAGE_PIXELS = None  # the limit is checked here, per call, before anything is decoded


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image; `pixels` is uint8 (height, width, 3 or 4), as stored (EXIF orientation not applied)."""

    format: str
    mode: str
    orientation: int
    """EXIF orientation, 1 to 8; 1 if none is given."""
    width: int
    height: int
    pixels: NDArray[np.uint8]

    def pixel_hash(self) -> bytes:
        """16 bytes that are equal for equal pixels, whatever the file format."""
        digest = xxhash.xxh3_128(np.array(self.pixels.shape, np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.digest()

    def thumbnail(self) -> NDArray[np.uint8]:
        """The upright image over white as uint8 (SIDE, SIDE, 3)."""
        return turn(_shrink(self.pixels), self.orientation)


class BrokenImage(Exception):  # noqa: N818 - it is a finding, not a fault
    """The image cannot be used. The text is a short reason without file names, so that reasons can be counted."""


def decode(content: bytes, *, max_pixels: int = MAX_PIXELS, fast: bool = False, colour: bool = True) -> DecodedImage:
    """Decodes every pixel of `content`: only this detects a truncated file.

    `fast` decodes a JPEG to fewer pixels, at the smallest DCT scale that suffices for the perceptual hash; without `colour`,
    to one channel. Raises BrokenImage if the content is empty, not an image, too large, cut off or damaged.
    """
    if not content:
        raise BrokenImage("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenImage("too many pixels")
            orientation = image.getexif().get(0x0112, 1)
            image_format, mode = image.format or "", image.mode
            if image_format == "JPEG" and mode in ("RGB", "L") and simplejpeg is not None:
                small = _FAST_SIDE if fast else 0
                space = "RGB" if colour or not fast else "GRAY"
                pixels = simplejpeg.decode_jpeg(content, space, min_height=small, min_width=small)
            else:
                pixels = _pillow_pixels(image)
    except BrokenImage:
        raise
    except UnidentifiedImageError:
        raise BrokenImage("not a picture") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        text = str(error).lower()
        cut = "truncated" in text or "premature" in text or "unexpected end" in text
        raise BrokenImage("cut off" if cut else "damaged") from None
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    return DecodedImage(image_format, mode, orientation, width, height, pixels)


def _pillow_pixels(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
        return pixels if int(pixels[..., 3].min()) < 255 else np.ascontiguousarray(pixels[..., :3])
    return np.asarray(image.convert("RGB"))


def _shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.shape[2] == 1:
        small = np.asarray(_reduce(Image.fromarray(pixels[..., 0])))
        return np.repeat(small[..., None], 3, axis=2)
    image = Image.fromarray(pixels)
    if image.mode == "RGBA":
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(_reduce(image))


def _reduce(image: Image.Image) -> Image.Image:
    # Of Pillow's filters, HAMMING gave the hashes that change least when a drawing is scaled and recompressed.
    return image.resize((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=3.0)


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """`pixels` (height, width, channels) with EXIF `orientation` applied."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _dct_matrix() -> NDArray[np.float64]:
    k, n = np.arange(_DCT_SIDE)[:, None], np.arange(SIDE)[None, :]
    return np.cos(np.pi * k * (2 * n + 1) / (2 * SIDE))


_DCT = _dct_matrix()
_GREY = np.array([299, 587, 114], np.float32) / 1000


@dataclass(frozen=True)
class Signatures:
    """Features by which B thumbnails are compared."""

    phash: NDArray[np.uint64]
    """(B,): the 8 x 8 lowest DCT coefficients compared with their median (the common `phash`)."""
    variance: NDArray[np.float32]
    """(B,): variance of the grey thumbnail, in grey levels squared; the hash of a flat image is meaningless."""
    colours: NDArray[np.uint8]
    """(B, COLOUR_BYTES): mean RGB of each field; distinguishes what the hash cannot: colours, small things on white."""


def signatures(thumbnails: NDArray[np.uint8]) -> Signatures:
    """Signatures of `thumbnails`, uint8 (B, SIDE, SIDE, 3)."""
    grey = thumbnails.astype(np.float32) @ _GREY
    step = SIDE // FIELDS
    fields = thumbnails.reshape(-1, FIELDS, step, FIELDS, step, 3).mean((2, 4), dtype=np.float32)
    return Signatures(_phash(grey), grey.var(axis=(1, 2)), np.rint(fields).astype(np.uint8).reshape(len(grey), -1))


def _phash(grey: NDArray[np.floating[Any]]) -> NDArray[np.uint64]:
    low = np.matmul(np.matmul(_DCT, grey.astype(np.float64)), _DCT.T).reshape(len(grey), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)


def perceptual_hashes(contents: list[bytes], *, fast: bool = True) -> NDArray[np.uint64]:
    """Perceptual hashes of encoded images, uint64 (B,). Raises BrokenImage if one cannot be decoded."""
    thumbnails = [decode(content, fast=fast, colour=False).thumbnail() for content in contents]
    return _phash(np.stack(thumbnails).astype(np.float32) @ _GREY)


def resize(content: bytes, max_side: int, quality: int) -> tuple[bytes, str] | None:
    """Bytes and extension of `content` scaled down, upright, to a longer side of `max_side` pixels; None if it is no larger.

    Images with transparency become PNG, all others JPEG of `quality` 1 to 100.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
        if max(image.size) <= max_side:
            return None
        transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
        image = image.convert("RGBA" if transparent else "RGB")
    factor = max_side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return encode(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0), "png" if transparent else "jpg", quality)


def encode(image: Image.Image, extension: str, quality: int) -> tuple[bytes, str]:
    """`image` as PNG or as JPEG of `quality`: bytes and `extension`."""
    buffer = io.BytesIO()
    if extension == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2)
    return buffer.getvalue(), extension
