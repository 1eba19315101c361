"""Reads image files: the one way from bytes to an upright RGB image, used by the loader, the data tools and all commands.

Whatever the format and mode, the result has the orientation that EXIF or XMP gives, transparency over white, and 8 bits per
channel (`colours`). The formats are an allowlist without decoders that start another program (EPS, WMF); file names play no part.
Only the first frame is read. Imports neither torch nor the settings.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import struct
import threading
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images.metadata import without_metadata

FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "ICNS", "CUR", "DIB", "PCX", "DCX",
    "DDS", "BLP", "FTEX", "FITS", "FLI", "GBR", "IM", "MSP", "PCD", "PIXAR", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "XBM",
    "XPM",
)  # fmt: skip
"""Formats that Pillow decodes in this process. HEIF is read where the package pillow-heif is installed."""
Fault = Literal["not a picture", "too many pixels", "cut off", "damaged"]
ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_BYTE, _WORD = 255, 65_535
_opening = threading.Lock()  # Pillow's limit of pixels is global; ours is an argument


class UnusableImageError(BrokenSampleError):
    """The bytes are not a usable image; `fault` is the reason without names and numbers, so that reasons can be counted."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__("too many pixels" if fault == "too many pixels" else "undecodable picture", detail)
        self.fault: Fault = fault


def decode_image(data: bytes, max_pixels: int, scale_for: Callable[[int, int], int] | None = None) -> Image.Image:
    """Returns an upright RGB image of 8 bits per channel; transparency becomes white.

    `scale_for` maps the upright image's width and height to the factor (1, 2, 4 or 8) by which a JPEG may be reduced while
    decoding; other formats are not reduced.

    Raises:
        UnusableImageError: not a complete image of one of `FORMATS`, or more than `max_pixels`.
    """
    return as_rgb(load_image(data, max_pixels, scale_for))


def as_rgb(image: Image.Image) -> Image.Image:
    """Returns any PIL image as `decode_image` returns a file's: upright RGB, greys scaled to 8 bits, transparency over white.

    Use it for images that are given in memory. The image itself is not changed.
    """
    return turn(on_white(colours(image)), orientation_of(image))


def load_image(data: bytes, max_pixels: int, scale_for: Callable[[int, int], int] | None = None) -> Image.Image:
    """Returns the decoded image as stored: neither upright nor RGB. Arguments and errors as `decode_image`."""
    try:
        return _load(data, max_pixels, scale_for)
    except UnusableImageError as error:
        if error.fault != "too many pixels":
            for copy in without_metadata(data):
                with contextlib.suppress(UnusableImageError):
                    return _load(copy, max_pixels, scale_for)
        raise


def _load(data: bytes, max_pixels: int, scale_for: Callable[[int, int], int] | None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _open(data)
            check_size(image.width, image.height, max_pixels)
            if scale_for is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
                width, height = image.size[:: -1 if orientation_of(image) > 4 else 1]
                scale = scale_for(width, height)
                if scale > 1:
                    image.draft(None, (image.width // scale, image.height // scale))
            image.load()
            _scale_clear_grey(image, data)
            return image
    except (UnusableImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UnusableImageError("not a picture", "of no known format") from None
    except Exception as error:  # a decoder may raise anything on unknown bytes; the sample is at fault
        detail = f"{type(error).__name__}: {error}"
        cut = any(word in detail.lower() for word in ("truncated", "premature", "unexpected end"))
        raise UnusableImageError("cut off" if cut else "damaged", detail) from None


def _scale_clear_grey(image: Image.Image, data: bytes) -> None:
    """Pillow scales the greys of PNGs of 2 and 4 bits to 8 bits, but not the one that is transparent."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int) and (depth := data[24]) in (2, 4):
        image.info["transparency"] = clear * (_BYTE // (2**depth - 1))


def open_image(data: bytes) -> Image.Image:
    """Returns an image whose header has been read and whose pixels have not. Raises `UnusableImageError`."""
    for copy in itertools.chain((data,), without_metadata(data)):
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _open(copy)
    raise UnusableImageError("not a picture", "of no known format")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises `UnusableImageError` if an image has more than `max_pixels`."""
    if width * height > max_pixels:
        raise UnusableImageError("too many pixels", f"{width} x {height}")


def _open(data: bytes) -> Image.Image:
    if data.startswith(b"\xff\xd8\xff"):  # including MPO, which is a JPEG with further JPEGs behind it
        try:
            return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        except (SyntaxError, IndexError, TypeError, struct.error) as error:  # what `Image.open` takes for another format
            raise UnidentifiedImageError(str(error)) from None
    with _opening:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _formats() -> tuple[str, ...]:
    Image.init()
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener  # optional package
        except ImportError:
            pass
        else:
            register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def orientation_of(image: Image.Image) -> int:
    """Returns the orientation, 1 to 8, that EXIF or XMP gives an image which is still as stored; 1 if there is none.

    Decoders that turn the image themselves (TIFF, HEIF) leave 1 once it is loaded.
    """
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # metadata that cannot be read say nothing about the pixels
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Returns the image of EXIF `orientation` upright."""
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def colours(image: Image.Image) -> Image.Image:
    """Returns a loaded image as RGB, or as RGBA if a pixel is transparent, 8 bits per channel, as stored.

    Greys of 16 or 32 bits or in floating point: levels up to 255 stay, levels up to 65535 are divided by 257, floats up to 1 are
    multiplied by 255; any other range (negative, larger) is stretched to 0 to 255. Nothing is clipped.
    """
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image)
    if image.mode == "LAB":
        from PIL import ImageCms  # start-up: few images need it

        standard = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        converted = ImageCms.applyTransform(image, standard)
        assert converted is not None  # a new image, since it was not asked to work in place
        return converted
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return image if np.asarray(image)[..., 3].min(initial=_BYTE) < _BYTE else image.convert("RGB")


def on_white(image: Image.Image) -> Image.Image:
    """Returns an RGB or RGBA image as RGB, over white."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    grey = Image.fromarray(_to_bytes(values))
    clear = image.info.get("transparency")
    if not isinstance(clear, int) or not (hidden := values == clear).any():
        return grey.convert("RGB")
    rgba = grey.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.where(hidden, 0, _BYTE).astype(np.uint8)))
    return rgba


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.dtype.kind == "u":
        high = int(values.max(initial=0))
        scaled: NDArray[np.uint8] = (values if high <= _BYTE else (values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return scaled
    levels = values.astype(np.float64)
    finite = levels[np.isfinite(levels)]
    low, high = min(0.0, finite.min(initial=0)), finite.max(initial=0)
    levels = np.nan_to_num(levels, nan=low, posinf=high, neginf=low) - low
    if low < 0 or high > _WORD:
        levels *= _BYTE / max(high - low, np.finfo(np.float64).tiny)
    elif values.dtype.kind == "f" and high <= 1:
        levels *= _BYTE
    elif high > _BYTE:
        levels /= 257
    rounded: NDArray[np.uint8] = levels.round().astype(np.uint8)
    return rounded
