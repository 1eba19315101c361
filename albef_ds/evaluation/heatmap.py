"""Draws heat maps over an image. Computes no maps."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from albef_ds.common.atomic_files import write_output

_OPACITY = 0.55
_CAPTION = 18  # pixels of the strip above each panel
_NARROWEST = 160


def overlay(image: Image.Image, heat: Tensor, boxes: Sequence[tuple[float, float, float, float]] = ()) -> Image.Image:
    """`image` under a map (h, w) from blue over yellow to red, scaled by its maximum, with boxes in pixels, the first thick."""
    scaled = F.interpolate(heat[None, None].float(), (image.height, image.width), mode="bilinear", align_corners=False)[0, 0]
    values = (scaled / scaled.max().clamp(min=torch.finfo(scaled.dtype).tiny)).clamp(0, 1).numpy()[..., None]
    cold, warm, hot = (np.array(colour, np.float32) for colour in ((40, 60, 160), (250, 220, 60), (220, 30, 30)))
    colour = np.where(values < 0.5, cold + (warm - cold) * 2 * values, warm + (hot - warm) * (2 * values - 1))
    pixels = np.asarray(image.convert("RGB"), np.float32)
    mixed = Image.fromarray((pixels * (1 - _OPACITY) + colour * _OPACITY).round().astype(np.uint8))
    canvas = ImageDraw.Draw(mixed)
    for number, box in enumerate(boxes):
        canvas.rectangle(list(box), outline=(255, 255, 255), width=3 if number == 0 else 1)
    return mixed


def panels(entries: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """The images side by side, each under its name."""
    wide = [
        (name, image.resize((max(_NARROWEST, image.width), round(image.height * max(_NARROWEST, image.width) / image.width))))
        for name, image in entries
    ]
    sheet = Image.new("RGB", (sum(image.width for _, image in wide), max(i.height for _, i in wide) + _CAPTION), "white")
    canvas, left = ImageDraw.Draw(sheet), 0
    for name, image in wide:
        canvas.text((left + 4, 3), name, fill="black")
        sheet.paste(image, (left, _CAPTION))
        left += image.width
    return sheet


def save_png(image: Image.Image, path: Path) -> None:
    """Writes `image`. Raises `UserError` if it cannot be written."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_output(path, buffer.getvalue())
