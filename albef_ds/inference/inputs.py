"""Reads images and texts from paths, PIL images, arrays, tensors or strings, one or many. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.config.schema import DataConfig
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images import decode
from albef_ds.data.images.normalise import to_pil_image
from albef_ds.data.images.read import as_rgb, check_size


@dataclass(frozen=True)
class Member:
    """An image inside a file."""

    name: str
    stamp: str
    """Another one where the content is another."""
    read: Callable[[], bytes] = field(compare=False, repr=False)
    """Returns the encoded image. Raises `BrokenSampleError` or `DataError` if it cannot be read."""

    def __str__(self) -> str:
        return self.name


ImageInput = str | Path | Image.Image | NDArray[Any] | Tensor | Member
"""A path, a PIL image of any mode, an array of an image (H, W), (H, W, 3) or (H, W, 4) of uint8 or (H, W) of uint16, or a tensor:
uint8 (3, H, W) of any size, or normalised float (3, S, S) of the model's size; an image inside a file."""
Images = ImageInput | Sequence[ImageInput]
Texts = str | Sequence[str]


def pixels_of(image: ImageInput, size: int, data: DataConfig) -> Tensor:
    """One image as the model takes it: float32 (3, size, size), the evaluation view of `data.images.decode`.

    Raises:
        DataError: it cannot be read, has more than `data.max_pixels` pixels, or is an array or tensor of another shape or type.
    """
    if _is_normalised(image, size):
        return image.float().cpu()
    return decode.evaluation_view(picture_of(image, size, data), size)


def picture_of(image: ImageInput, size: int, data: DataConfig) -> Image.Image:
    """The RGB image that the model reads, before its size is changed: upright, over white, greys scaled to 8 bits.

    Whatever is drawn over an image is drawn over this one. Arguments and errors as `pixels_of`.
    """
    if _is_normalised(image, size):
        return to_pil_image(image.float())
    if isinstance(image, Tensor | np.ndarray):
        image = _from_array(image, size)
    if not isinstance(image, str | Path | Image.Image | Member):
        raise DataError(f"an image is of type {type(image).__name__}: give a path, a PIL image, an array or a tensor")
    try:
        if isinstance(image, Image.Image):
            check_size(*image.size, data.max_pixels)
            return image.convert("RGB") if data.compat else as_rgb(image)
        content = image.read() if isinstance(image, Member) else Path(image).read_bytes()
        return decode.read_image(content, data.max_pixels, compat=data.compat)
    except OSError as error:
        raise DataError(f"{image} cannot be read ({error.strerror}): give the path of an image") from None
    except BrokenSampleError as error:
        raise DataError(f"{image} is not a usable image ({error}): give a JPEG, PNG or WebP file") from None


def _is_normalised(image: ImageInput, size: int) -> TypeGuard[Tensor]:
    return isinstance(image, Tensor) and image.is_floating_point() and image.shape == (3, size, size)


def _from_array(image: Tensor | NDArray[Any], size: int) -> Image.Image:
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[0] != 3:
            raise DataError(
                f"an image is a tensor of type {image.dtype} and shape {list(image.shape)}: give uint8 (3, H, W), "
                f"or normalised floats (3, {size}, {size})"
            )
        image = image.permute(1, 2, 0).cpu().numpy()
    shape, kind = image.shape, image.dtype
    colours = kind == np.uint8 and image.ndim == 3 and shape[2] in (3, 4)
    if not (colours or (image.ndim == 2 and kind in (np.uint8, np.uint16))) or 0 in shape:
        raise DataError(
            f"an image is an array of type {kind} and shape {list(shape)}: give uint8 (H, W, 3), (H, W, 4) or (H, W), "
            "or uint16 (H, W)"
        )
    return Image.fromarray(np.ascontiguousarray(image))


def many(items: Any) -> list[Any]:
    """One or many items as a list; a tensor (B, 3, H, W) or array (B, H, W, 3) as its images.

    Raises `ConfigError` if it is empty.
    """
    one = isinstance(items, Tensor | np.ndarray) and items.ndim <= 3
    if isinstance(items, str | bytes | Path | Image.Image) or one or not isinstance(items, Iterable):
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
