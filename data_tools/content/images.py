"""Decoding pictures and describing them: pixel hash, perceptual hash, variance, colour signature.

Every number is taken from the picture as it is seen: EXIF orientation applied, transparency over white. JPEG goes
through simplejpeg (libjpeg-turbo) when it is installed, all else through Pillow; both give the same pixels.
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
"""Side of the thumbnail that hash, variance and colours are taken from."""
_DCT_SIDE = 8
FIELDS = 8
"""The colour signature holds the mean colours of FIELDS x FIELDS fields."""
COLOUR_BYTES = FIELDS * FIELDS * 3
_FAST_SIDE = 56  # with this as smallest side, DCT scaling moves the hash by about one bit
Image.MAX_IMAGE_PIXELS = None  # the limit is checked here, per call, before anything is decoded


@dataclass(frozen=True)
class Picture:
    """A picture that was wholly decoded; `pixels` is uint8 (height, width, 3 or 4), as stored (not turned)."""

    format: str
    mode: str
    orientation: int
    """EXIF orientation, 1 to 8; 1: none given."""
    width: int
    height: int
    pixels: NDArray[np.uint8]

    def pixel_hash(self) -> bytes:
        """16 bytes that are equal for equal pixels, whatever file format held them."""
        digest = xxhash.xxh3_128(np.array(self.pixels.shape, np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.digest()

    def thumbnail(self) -> NDArray[np.uint8]:
        """The upright picture over white as uint8 (SIDE, SIDE, 3)."""
        return turn(_shrink(self.pixels), self.orientation)


class BrokenPicture(Exception):  # noqa: N818 - it is a finding, not a fault
    """The picture cannot be used; the text is the reason, short and free of file names so that reasons can be counted."""


def decode(content: bytes, *, max_pixels: int = MAX_PIXELS, fast: bool = False, colour: bool = True) -> Picture:
    """Decode every pixel of `content`; only that finds a file that is cut off.

    `fast` decodes a JPEG at the largest DCT scale that still serves the perceptual hash; `pixels` are then fewer.
    Without `colour` such a JPEG is decoded to one channel.

    Raises:
        BrokenPicture: empty, no picture, too many pixels, cut off or damaged.
    """
    if not content:
        raise BrokenPicture("empty file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            width, height = image.size
            if width * height > max_pixels:
                raise BrokenPicture("too many pixels")
            orientation = image.getexif().get(0x0112, 1)
            picture_format, mode = image.format or "", image.mode
            if picture_format == "JPEG" and mode in ("RGB", "L") and simplejpeg is not None:
                small = _FAST_SIDE if fast else 0
                space = "RGB" if colour or not fast else "GRAY"
                pixels = simplejpeg.decode_jpeg(content, space, min_height=small, min_width=small)
            else:
                pixels = _pillow_pixels(image)
    except BrokenPicture:
        raise
    except UnidentifiedImageError:
        raise BrokenPicture("not a picture") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        text = str(error).lower()
        cut = "truncated" in text or "premature" in text or "unexpected end" in text
        raise BrokenPicture("cut off" if cut else "damaged") from None
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    return Picture(picture_format, mode, orientation, width, height, pixels)


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
    # Of Pillow's filters this one gave the hashes that change least when a drawing is scaled and recompressed.
    return image.resize((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=3.0)


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """`pixels` (height, width, channels) brought upright from EXIF `orientation`."""
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
    """What B thumbnails are compared by."""

    phash: NDArray[np.uint64]
    """(B,): the 8 x 8 lowest DCT coefficients against their median (the `phash` of common use)."""
    variance: NDArray[np.float32]
    """(B,): variance of the grey thumbnail, in grey levels squared; a flat picture's hash means nothing."""
    colours: NDArray[np.uint8]
    """(B, COLOUR_BYTES): mean RGB of each field; tells apart what the hash does not: colours, small things on white."""


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
    """Perceptual hashes of encoded pictures, uint64 (B,).

    Raises:
        BrokenPicture: one of them cannot be decoded.
    """
    thumbnails = [decode(content, fast=fast, colour=False).thumbnail() for content in contents]
    return _phash(np.stack(thumbnails).astype(np.float32) @ _GREY)


def resize(content: bytes, max_side: int, quality: int) -> tuple[bytes, str] | None:
    """`content` scaled down so that its longer side is `max_side` pixels, upright: new bytes and extension.

    None when the picture is no larger. Pictures with transparency become PNG, all others JPEG of `quality` 1 to 100.
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
