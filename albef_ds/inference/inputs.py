"""Reads images and texts from paths, PIL images, strings or tensors, one or many. Knows no model."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.images.read import decode_image

ImageInput = str | Path | Image.Image | Tensor
"""A path, a PIL image, or a tensor: uint8 (3, H, W) of any size, or normalised float (3, S, S) of the model's size."""
Images = ImageInput | Sequence[ImageInput]
Texts = str | Sequence[str]

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def pixels_of(image: ImageInput, size: int, max_pixels: int) -> Tensor:
    """One image as the model takes it: float32 (3, size, size), the evaluation view of `data.images.decode`.

    Raises:
        DataError: it cannot be read, has more than `max_pixels` pixels, or is a tensor of another shape or type.
    """
    if isinstance(image, Tensor) and image.is_floating_point() and image.shape == (3, size, size):
        return image.float().cpu()
    try:
        return decode.resize(_bytes_of(image, size), max_pixels, size)
    except OSError as error:
        raise DataError(f"{image} cannot be read ({error.strerror}): give the path of an image") from None
    except BrokenSampleError as error:
        raise DataError(f"{image} is not a usable image ({error}): give a JPEG, PNG or WebP file") from None


def size_of(image: ImageInput, max_pixels: int) -> tuple[int, int]:
    """Width and height in pixels of an image that `pixels_of` takes, after EXIF rotation."""
    if isinstance(image, Tensor):
        return image.shape[2], image.shape[1]
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).size
    return decode_image(Path(image).read_bytes(), max_pixels).size


def many(items: Any) -> list[Any]:
    """One or many items as a list; a tensor (B, 3, H, W) as its images. Raises `ConfigError` if it is empty."""
    if isinstance(items, str | Path | Image.Image) or (isinstance(items, Tensor) and items.dim() == 3):
        return [items]
    listed = list(items)
    if not listed:
        raise ConfigError("no image or text was given: give one or more")
    return listed


def batches(items: Any, size: int) -> Iterator[list[Any]]:
    """Yields `many(items)` in lists of at most `size`. Raises `ConfigError` if `size` is below 1."""
    listed = many(items)
    if size < 1:
        raise ConfigError(f"batch_size is {size}: give 1 or more")
    for start in range(0, len(listed), size):
        yield listed[start : start + size]


def paired(images: list[Any], texts: list[str]) -> tuple[list[Any], list[str]]:
    """Repeats a single text for every image; a single image stays one. Raises `ConfigError` if numbers differ otherwise."""
    if len(texts) == 1 < len(images):
        texts = texts * len(images)
    if len(images) not in (1, len(texts)):
        raise ConfigError(f"{len(images)} images do not fit {len(texts)} texts: give as many, or one of either")
    return images, texts


def _bytes_of(image: ImageInput, size: int) -> bytes:
    """A file's content; an image in memory is encoded as PNG, so that it is processed like a file."""
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise DataError(
                f"an image is a tensor of type {image.dtype} and shape {list(image.shape)}: give uint8 (3, H, W), "
                f"or normalised floats (3, {size}, {size})"
            )
        image = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    if not isinstance(image, Image.Image):
        return Path(image).read_bytes()
    image = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    (image if image.mode in _PNG_MODES else image.convert("RGB")).save(buffer, "PNG", compress_level=0)
    return buffer.getvalue()
