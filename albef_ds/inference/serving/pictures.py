"""JPEGs for the page: images of the gallery in a bounded size, heat maps over them, and uploaded images. Knows no HTTP."""

from __future__ import annotations

import base64
import binascii
import threading
from collections import OrderedDict
from pathlib import Path

from PIL import Image
from torch import Tensor

from albef_ds.common.errors import DataError
from albef_ds.common.html import data_url
from albef_ds.data.broken import BrokenSampleError
from albef_ds.data.images.decode import read_image
from albef_ds.data.images.thumbnails import jpeg_of
from albef_ds.evaluation.heatmap import overlay
from albef_ds.inference.inputs import Member
from albef_ds.inference.model import AlbefModel
from albef_ds.inference.sources import stamp_of

SIZES = (320, 1280)
"""Largest side in pixels of a card on the page and of an opened image."""
UPLOAD_PIXELS = 50_000_000
"""Most pixels of an uploaded image."""
_KEPT = 512


class Thumbnails:
    """JPEGs of files, the last ones kept. May be called by several threads."""

    def __init__(self, model: AlbefModel) -> None:
        self._model = model
        self._kept: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def jpeg(self, image: Path | Member, side: int) -> bytes:
        """The image as the model reads it, at most `side` pixels wide and high. Raises `UserError` if it cannot be read."""
        if isinstance(image, Member):
            stamp = image.stamp
        elif not (stamp := stamp_of(str(image))):
            raise DataError(f"{image.name} cannot be read (it is gone): search again")
        key = (str(image), stamp, side)
        if (known := self._kept.get(key)) is not None:
            return known
        made = jpeg_of(self._model.picture(image), side)
        if side == min(SIZES):
            with self._lock:
                self._kept[key] = made
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return made


def with_heat(image: Image.Image, heat: Tensor, side: int) -> str:
    """`data:` URL of the image under a heat map (h, w), at most `side` pixels wide and high."""
    small = image.copy()
    small.thumbnail((side, side))
    return data_url(jpeg_of(overlay(small, heat), side), "jpeg")


def uploaded(text: str, model: AlbefModel) -> Image.Image:
    """The image in base64 `text`, as the model reads it.

    Raises `DataError` if it is not base64, not an image, or has more than UPLOAD_PIXELS.
    """
    data = model.config.evaluation_data
    try:
        content = base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
        return read_image(content, min(UPLOAD_PIXELS, data.max_pixels), compat=data.compat)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, BrokenSampleError):
            raise DataError(f"the uploaded file is not a usable image ({error}): give a JPEG, PNG or WebP file") from None
        raise DataError("the uploaded image is not base64: encode its bytes") from None
