"""Image files of every kind: odd but sound ones, and a plain reference for what each must become."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ORIENTATION = 0x0112


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def smooth(width: int = 40, height: int = 32, seed: int = 0) -> Image.Image:
    """A smooth image in colours, another for each seed and alike to none of its own turns."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation: int) -> bytes:
    """EXIF data with this orientation."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def segment(marker: int, payload: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def chunk(name: bytes, payload: bytes, *, checksum: int | None = None) -> bytes:
    """A chunk of a PNG."""
    right = zlib.crc32(name + payload)
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", right if checksum is None else checksum)


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with further bytes behind its first marker."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def sampled_jpeg(width: int = 64, height: int = 32) -> bytes:
    """A grey JPEG in colours with 4:1:0 sampling, written by hand: Pillow and simplejpeg cannot write it."""
    model = encoded(Image.new("RGB", (16, 16), (128, 128, 128)), "JPEG", subsampling=2)
    frame, scan = model.index(b"\xff\xc0"), model.index(b"\xff\xda")
    header = bytearray(model[: scan + 2 + int.from_bytes(model[scan + 2 : scan + 4], "big")])
    header[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    header[frame + 11] = 0x42  # four blocks across, two down, for one of each colour
    luma, chroma = "00" + "1010", "00" + "00"  # no change of the mean, end of block
    bits = ("11110" + f"{100:07b}" + "1010" + luma * 7 + chroma * 2) + (luma * 8 + chroma * 2) * (width * height // 512 - 1)
    bits += "1" * (-len(bits) % 8)
    body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return bytes(header) + body + b"\xff\xd9"


def odd_files() -> dict[str, bytes]:
    """Sound images that one decoder or another refuses, by name; each shows `smooth()` or its JPEG, except the first."""
    jpeg, png = encoded(smooth(), "JPEG"), encoded(smooth())
    profile, large = b"ICC_PROFILE\0", bytes(np.random.default_rng(0).integers(0, 256, 3 << 20, dtype=np.uint8))
    parts = [segment(0xE2, profile + bytes([number, 30]) + large[:60_000]) for number in range(1, 31)]
    return {
        "sampling.jpg": sampled_jpeg(),
        "short_adobe.jpg": with_segments(jpeg, b"\xff\xee\x00\x0eAdobe\x00\x64"),
        "cut_adobe.jpg": with_segments(jpeg, segment(0xEE, b"Adobe")),
        "lone_profile.jpg": with_segments(jpeg, segment(0xE2, profile + b"\x01\x02xxxx")),
        "short_profile.jpg": with_segments(jpeg, segment(0xE2, profile)),
        "large_profile.jpg": with_segments(jpeg, *parts),
        "short_jfif.jpg": with_segments(jpeg, segment(0xE0, b"JFIF\0")),
        "stray_bytes.jpg": jpeg[:20] + b"\x00\x01\x02" + jpeg[20:],
        "fill_bytes.jpg": with_segments(jpeg, b"\xff\xff\xff"),
        "exif_that_is_none.jpg": with_segments(jpeg, segment(0xE1, b"Exif\0\0no tags")),
        "bytes_behind.jpg": jpeg + b"\0" * 100,
        "exif_that_is_none.png": with_chunks(png, chunk(b"eXIf", b"NO EXIF!")),
        "large_profile.png": with_chunks(png, chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2 << 20)))),
        "large_text.png": with_chunks(png, chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20)))),
        "text_of_other_checksum.png": with_chunks(png, chunk(b"tEXt", b"Comment\0x", checksum=1)),
        "text_behind.png": png[:-12] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))) + png[-12:],
        "exif_that_is_none.webp": encoded(smooth(), "WEBP", lossless=True, exif=b"NO EXIF!"),
    }


def reference(data: bytes) -> NDArray[np.uint8]:
    """The image of a file as Pillow reads it, made upright RGB over white by numpy: uint8 (height, width, 3)."""
    image = Image.open(io.BytesIO(data))
    image.load()
    orientation = 1
    if image.format not in ("TIFF", "HEIF"):  # Pillow turns those itself
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except SyntaxError:
            orientation = 1
    return turn(plain_rgb(image), orientation)


def plain_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """A loaded image as stored, as RGB over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        levels = np.asarray(image).astype(np.float64)
        low, high = min(levels.min(), 0), levels.max()
        if low < 0 or high > 65535:
            levels = (levels - low) / (high - low) * 255
        elif image.mode == "F" and high <= 1:
            levels = levels * 255
        elif high > 255:
            levels = levels / 257
        return np.repeat(levels.round().astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        values = np.asarray(image).astype(np.float64)
        alpha = values[..., 3:] / 255
        return (values[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return np.asarray(image.convert("RGB"))


def turn(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Stored pixels (height, width, 3) upright, by the table of the EXIF standard."""
    ways = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(p, 2).transpose(1, 0, 2),
        8: lambda p: np.rot90(p),
    }  # fmt: skip
    return np.ascontiguousarray(ways[orientation](pixels))
