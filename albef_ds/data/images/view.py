"""The images of a batch between the loader and the model's device: finished views, or crops from which views are made there.

With `data.augment_device=model`, resizing, flipping and augmentation run on the model's device, and the loader only decodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from albef_ds.data.images.normalise import normalise, normalise_colours
from albef_ds.data.images.rand_augment import Drawn
from albef_ds.data.images.rand_augment_torch import rand_augment

Pixels = NDArray[np.uint8]
"""uint8 (H, W, 4): red, green, blue and a meaningless byte, so that a pixel is one 32-bit word."""


@dataclass(frozen=True)
class PendingView:
    """The crop of one image, and the operations to apply to it."""

    crop: Pixels
    side: int
    """Height and width of the view in pixels."""
    flip: bool
    drawn: tuple[Drawn, ...]


View = Pixels | PendingView
"""A training view, or the crop from which it will be made."""


@dataclass(frozen=True)
class DecodedImages:
    """Finished views of a batch, which `to` normalises on the model's device."""

    pixels: Tensor
    """uint8 (B, H, W, 4) or (B, I, H, W, 4), the fourth byte meaningless."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Tensor:
        """Returns float32 (B, 3, H, W) or (B, I, 3, H, W) on `device`, normalised."""
        return normalise(self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> DecodedImages:
        """Returns a copy in page-locked memory."""
        return DecodedImages(self.pixels.pin_memory())

    def __getitem__(self, rows: slice) -> DecodedImages:
        """Returns the images of the samples in `rows`."""
        return DecodedImages(self.pixels[rows])


@dataclass(frozen=True)
class PendingViews:
    """N crops of a batch, concatenated in a buffer, and the operations to apply to them on the model's device."""

    buffer: Tensor
    """uint8 (T,): the crops, four bytes per pixel."""
    sizes: tuple[tuple[int, int], ...]
    """Height and width of each crop."""
    flips: tuple[bool, ...]
    drawn: tuple[tuple[Drawn, ...], ...]
    side: int
    per_sample: int = 0
    """Number of images per sample if samples have that dimension, else 0."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Tensor:
        """Returns float32 (B, 3, side, side) or (B, I, 3, side, side): the views made on `device`, normalised."""
        return normalise_colours(self.make(self.buffer.to(device, non_blocking=non_blocking)))

    def make(self, buffer: Tensor) -> Tensor:
        """Returns the views of `buffer` on its device: integer values 0 to 255 in float32, with the shape of `to`."""
        views = []
        for crop, (height, width) in zip(torch.split(buffer, self.lengths()), self.sizes, strict=True):
            colours = crop.view(1, height, width, 4)[..., :3].permute(0, 3, 1, 2).float()
            if (height, width) != (self.side, self.side):
                colours = F.interpolate(colours, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
            views.append(colours)
        made = torch.cat(views).round_().clamp_(0, 255)
        flips = torch.tensor(self.flips).to(buffer.device, non_blocking=True)
        made = rand_augment(torch.where(flips[:, None, None, None], made.flip(-1), made), self.drawn)
        return made.view(-1, self.per_sample, *made.shape[1:]) if self.per_sample else made

    def pin_memory(self) -> PendingViews:
        """Returns a copy in page-locked memory."""
        return replace(self, buffer=self.buffer.pin_memory())

    def __getitem__(self, rows: slice) -> PendingViews:
        """Returns the crops of the samples in `rows`."""
        per_sample = self.per_sample or 1
        start, stop, step = rows.indices(len(self.sizes) // per_sample)
        assert step == 1, "samples must be consecutive"
        part = slice(start * per_sample, max(start, stop) * per_sample)
        ends = [0, *accumulate(self.lengths())]
        buffer = self.buffer[ends[part.start] : ends[part.stop]]
        return PendingViews(buffer, self.sizes[part], self.flips[part], self.drawn[part], self.side, self.per_sample)

    def lengths(self) -> list[int]:
        """Returns the number of bytes of each crop."""
        return [4 * height * width for height, width in self.sizes]


RawImages = DecodedImages | PendingViews
"""The images of a batch as a loader delivers them; `to` makes the normalised tensor that a model takes."""


def stack_views(views: Sequence[View], per_sample: int = 0) -> RawImages:
    """Returns the views of a batch, all of one type, as `RawImages`.

    Args:
        views: consecutive for each sample if a sample has several.
        per_sample: see `PendingViews.per_sample`.
    """
    pending = [view for view in views if isinstance(view, PendingView)]
    if not pending:
        made = torch.from_numpy(np.stack([view for view in views if not isinstance(view, PendingView)]))
        return DecodedImages(made.view(-1, per_sample, *made.shape[1:]) if per_sample else made)
    assert len(pending) == len(views), "views of two types in one batch"
    sizes = tuple((view.crop.shape[0], view.crop.shape[1]) for view in pending)
    buffer = torch.empty(4 * sum(height * width for height, width in sizes), dtype=torch.uint8)
    flips, drawn = tuple(view.flip for view in pending), tuple(view.drawn for view in pending)
    images = PendingViews(buffer, sizes, flips, drawn, pending[0].side, per_sample)
    for place, view in zip(torch.split(buffer, images.lengths()), pending, strict=True):
        place.numpy().reshape(view.crop.shape)[...] = view.crop
    return images
