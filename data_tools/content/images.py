"""Decodes images and describes them: pixel hash, perceptual hash, variance, colour signature.

Every number describes the image as displayed: EXIF orientation applied, transparency over white. The pixels are those of the
loader (`albef_ds/data/images/read.py`, and `jpeg.py` for the fast path).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from albef_ds.data.images import box_means, jpeg, read
from data_tools.config import MAX_PIXELS

EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that shards hold as they are."""
SIDE = 32
"""Side in pixels of the thumbnail from which hash, variance and colours are computed."""
_GAP = 3.0  # Pillow averages boxes down to this many times the side before it filters
_DCT_SIDE = 8
FIELDS = 8
"""The colour signature holds the mean colours of FIELDS x FIELDS fields."""
COLOUR_BYTES = FIELDS * FIELDS * 3
_FAST_SIDE = 56  # with this as smallest side, DCT scaling moves the hash by about one bit
_SCANNED = 1 << 62  # the scan has checked the size of images that are written


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
        header = jpeg.plain(content)
        if header is not None:
            read.check_size(header.width, header.height, max_pixels)
            scale = _fast_scale(header.width, header.height) if fast else 1
            stored = jpeg.decode(content, header, "RGB" if colour or not fast else "GRAY", scale)
            if stored is not None:
                orientation = read.orientation_of(read.open_image(content)) if header.may_be_turned else 1
                return DecodedImage("JPEG", header.mode, orientation, header.width, header.height, stored)
        full: list[int] = []

        def scale_for(width: int, height: int) -> int:
            full[:] = width, height
            return _fast_scale(width, height)

        image = read.load_image(content, max_pixels, scale_for if fast else None)
    except read.UnusableImageError as error:
        raise BrokenImage(error.fault) from None
    orientation = read.orientation_of(image)
    width, height = (full[::-1] if orientation > 4 else full) or image.size
    return DecodedImage(image.format or "", image.mode, orientation, width, height, np.asarray(read.colours(image)))


def _fast_scale(width: int, height: int) -> int:
    return next((scale for scale in (8, 4, 2) if -(-min(width, height) // scale) >= _FAST_SIDE), 1)


def _shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.shape[2] == 1:
        small = np.asarray(_reduce(Image.fromarray(pixels[..., 0])))
        return np.repeat(small[..., None], 3, axis=2)
    rows, columns = (int(side / SIDE / _GAP) or 1 for side in pixels.shape[:2])
    if pixels.shape[2] == 3 and rows <= box_means.MOST_ROWS and box_means.LIBRARY is not None:
        return _shrink_colours(pixels, rows, columns)
    return np.asarray(_reduce(read.on_white(Image.fromarray(pixels))))


def _reduce(image: Image.Image) -> Image.Image:
    # Of Pillow's filters, HAMMING gave the hashes that change least when a drawing is scaled and recompressed.
    return image.resize((SIDE, SIDE), Image.Resampling.HAMMING, reducing_gap=_GAP)


def _shrink_colours(pixels: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """The bytes of `_reduce` for (height, width, 3), without a copy of all pixels in Pillow's four bytes."""
    small = box_means.box_means(pixels, rows, columns)
    image = Image.frombuffer("RGBX", (small.shape[1], small.shape[0]), small, "raw", "RGBX", 0, 1)
    box = (0, 0, pixels.shape[1] / columns, pixels.shape[0] / rows)
    scaled = image.resize((SIDE, SIDE), Image.Resampling.HAMMING, box)
    return np.asarray(scaled)[..., :3]


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


def for_shard(content: bytes, max_side: int, quality: int) -> tuple[bytes, str]:
    """Bytes and extension of an image as shards hold it.

    JPEG (with MPO), PNG and WebP stay byte for byte; with `max_side` above 0, only up to a longer side of that many pixels.
    All else is written again as the loader sees it: upright, 8 bits, over white. It becomes JPEG of `quality` 1 to 100 if it was
    scaled down and is opaque, else PNG, which keeps every pixel.
    """
    header = jpeg.plain(content)
    if header is not None and not 0 < max_side < max(header.width, header.height):
        return content, "jpg"
    opened = read.open_image(content)
    smaller = max_side > 0 and max(opened.size) > max_side
    extension = EXTENSIONS.get(opened.format or "")
    if extension is not None and not smaller:
        return content, extension
    stored = read.load_image(content, _SCANNED)
    image = read.as_rgb(stored)
    if not stored.mode.startswith("RGB"):
        image.info.pop("icc_profile", None)  # it describes other channels
    if not smaller:
        return encode(image, "png", 0)
    factor = max_side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return encode(image, "png" if stored.has_transparency_data else "jpg", quality)


def encode(image: Image.Image, extension: str, quality: int) -> tuple[bytes, str]:
    """`image` as PNG or as JPEG of `quality`: bytes and `extension`."""
    buffer = io.BytesIO()
    if extension == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=quality, subsampling=0 if quality >= 95 else 2)
    return buffer.getvalue(), extension
