"""Makes pixels from image bytes: decoding, the training view, the evaluation resize.

Random numbers come from generators of (seed, position), so a view is a pure function of (bytes, seed, position). JPEG is decoded
by simplejpeg (libjpeg-turbo) if installed, which gives Pillow's pixels faster; Pillow decodes files that it rejects and other
formats (`read.py`). RandAugment is in `rand_augment.py`; views made on the model's device are in `view.py`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from albef_ds.config.schema import DataConfig
from albef_ds.data import randomness
from albef_ds.data.images import gpu_jpeg, jpeg
from albef_ds.data.images.crop import Crop
from albef_ds.data.images.normalise import normalise
from albef_ds.data.images.rand_augment import draw
from albef_ds.data.images.rand_augment_numpy import rand_augment
from albef_ds.data.images.read import check_size, decode_image, load_image
from albef_ds.data.images.view import PendingView, Pixels, View

_SMALL = 6
"""A crop of at most this many times the view's pixels is sent to the model's device unscaled: this includes every JPEG."""


def decode_crop(data: bytes, max_pixels: int, crop: Crop, *, compat: bool = False) -> Pixels:
    """Returns the `crop` of an image, uint8 (h, w, 4), the fourth byte meaningless. Raises as `decode_image`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the crop keeps at least its side in both directions; not with `compat`
    (`read_image`).
    """
    header = jpeg.plain(data)
    if header is not None and not header.may_be_turned:
        check_size(header.width, header.height, max_pixels)
        crop.place(header.width, header.height)
        scale = 1 if compat else crop.scale_for(header.width, header.height)
        pixels = jpeg.decode(data, header, "RGBX", scale)
        if pixels is not None:
            left, top, right, bottom = crop.box(pixels.shape[1])
            return np.array(pixels[top:bottom, left:right])  # copied while in the CPU's cache; the full image is freed
    image = read_image(data, max_pixels, compat=True) if compat else decode_image(data, max_pixels, crop.scale_for)
    crop.place(*image.size)
    left, top, right, bottom = crop.box(image.width)
    return np.array(Image.fromarray(np.asarray(image)[top:bottom, left:right]).convert("RGBA"))


def read_image(data: bytes, max_pixels: int, *, compat: bool = False) -> Image.Image:
    """Returns the RGB image that a model reads, before its size is changed. Raises as `decode_image`.

    With `compat` as the released code reads it: as stored, without its orientation, alpha dropped, levels above 255 clipped.
    """
    return load_image(data, max_pixels).convert("RGB") if compat else decode_image(data, max_pixels)


def training_view(data: bytes, config: DataConfig, image_size: int, seed: int, position: int) -> View:
    """Returns the training view of an image, uint8 (image_size, image_size, 4), the fourth byte meaningless.

    A random crop resized (bicubic), a flip, RandAugment(2, 7), in the released order. With `data.augment_device=model` it is a
    `PendingView`: the crop and the remaining operations. Raises as `decode_image`.
    """
    generator = randomness.generator(seed, position, randomness.CROP)
    crop = Crop(image_size, config.crop_scale_min, generator)
    pixels = _gpu_view(data, config.max_pixels, crop) if config.jpeg_device == "cuda" else None
    if pixels is None:
        pixels = decode_crop(data, config.max_pixels, crop, compat=config.compat)
        if config.augment_device == "cpu" or pixels.size > 4 * _SMALL * image_size**2:
            pixels = scale_to(pixels, image_size)
    flip = config.flip and generator.random() < 0.5
    drawn = draw(randomness.generator(seed, position, randomness.AUGMENT), config.compat) if config.rand_augment else ()
    if config.augment_device == "model":
        return PendingView(pixels, image_size, flip, drawn)
    if flip:
        pixels = np.ascontiguousarray(pixels.view(np.uint32)[:, ::-1]).view(np.uint8)
    return rand_augment(pixels, drawn)


def _gpu_view(data: bytes, max_pixels: int, crop: Crop) -> Pixels | None:
    """Returns the resized crop of a plain JPEG, made on the GPU; None if the CPU has to make it."""
    header = jpeg.plain(data)
    if header is None or header.may_be_turned or not header.ends:
        return None
    width, height = header.width, header.height
    check_size(width, height, max_pixels)
    return gpu_jpeg.cropped_view(data, crop.place(width, height), crop.side, gpu_jpeg.device())


def scale_to(pixels: Pixels, side: int) -> Pixels:
    """Returns `pixels` (h, w, 4) resized (bicubic, antialiased) to (side, side, 4)."""
    # The fast kernel needs channels-last memory, with matching strides of the batch dimension too.
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    scaled = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False)
    result: Pixels = scaled[0].permute(1, 2, 0).contiguous().numpy()
    return result


def evaluation_view(image: Image.Image, image_size: int) -> Tensor:
    """Returns the full RGB image resized (bicubic) to a square, float32 (3, image_size, image_size)."""
    return normalise(torch.from_numpy(np.array(image.resize((image_size, image_size), Image.Resampling.BICUBIC))))


def resize(data: bytes, max_pixels: int, image_size: int, *, compat: bool = False) -> Tensor:
    """Returns the evaluation view of an image's bytes, read by `read_image`. Raises as `decode_image`."""
    return evaluation_view(read_image(data, max_pixels, compat=compat), image_size)
