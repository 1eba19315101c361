"""Views that are still to be made: crops of many sizes in one buffer, with what a batch's device has to do to them.

Resizing, flipping and augmenting on the model's device leaves decoding as the loader's only work on pixels
(`data.augment_device=model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from albef_ds.data.images.rand_augment import Drawn
from albef_ds.data.images.rand_augment_torch import rand_augment

Pixels = NDArray[np.uint8]
"""uint8 (H, W, 4): red, green, blue and a byte that means nothing but makes a pixel one 32-bit word."""


@dataclass(frozen=True)
class PendingView:
    """The crop of one picture, and what is to become of it."""

    crop: Pixels
    side: int
    """Pixels of the view, both ways."""
    flip: bool
    drawn: tuple[Drawn, ...]


View = Pixels | PendingView
"""A training view, or what it will be made of."""


@dataclass(frozen=True)
class ViewPlan:
    """What is to be done to N crops that stand one behind the other in a buffer."""

    sizes: tuple[tuple[int, int], ...]
    """Height and width of each crop."""
    flips: tuple[bool, ...]
    drawn: tuple[tuple[Drawn, ...], ...]
    side: int
    per_sample: int = 0
    """Pictures of one sample, where samples have such a dimension; 0: they have not."""

    def make(self, buffer: Tensor) -> Tensor:
        """The views: grey levels, whole numbers in float32 (B, 3, side, side) or (B, I, 3, side, side).

        Args:
            buffer: the crops' uint8 (T,), four bytes a pixel, on the device that is to do the work.
        """
        views = []
        for crop, (height, width) in zip(torch.split(buffer, self._lengths()), self.sizes, strict=True):
            colours = crop.view(1, height, width, 4)[..., :3].permute(0, 3, 1, 2).float()
            if (height, width) != (self.side, self.side):
                colours = F.interpolate(colours, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
            views.append(colours)
        made = torch.cat(views).round_().clamp_(0, 255)
        flips = torch.tensor(self.flips).to(buffer.device, non_blocking=True)
        made = rand_augment(torch.where(flips[:, None, None, None], made.flip(-1), made), self.drawn)
        return made.view(-1, self.per_sample, *made.shape[1:]) if self.per_sample else made

    def rows(self, rows: slice, buffer: Tensor) -> tuple[Tensor, ViewPlan]:
        """Buffer and plan of the samples in `rows`."""
        per_sample = self.per_sample or 1
        start, stop, step = rows.indices(len(self.sizes) // per_sample)
        assert step == 1, "samples in a row"
        part = slice(start * per_sample, max(start, stop) * per_sample)
        ends = [0, *accumulate(self._lengths())]
        plan = ViewPlan(self.sizes[part], self.flips[part], self.drawn[part], self.side, self.per_sample)
        return buffer[ends[part.start] : ends[part.stop]], plan

    def _lengths(self) -> list[int]:
        return [4 * height * width for height, width in self.sizes]


def together(views: Sequence[View], per_sample: int = 0) -> tuple[Tensor, ViewPlan | None]:
    """The views of a batch as its `images` and, where work is left, its `plan`.

    Args:
        views: of one kind; sample by sample where a sample has several.
        per_sample: see `ViewPlan.per_sample`.

    Returns:
        uint8 (B, H, W, 4) or (B, I, H, W, 4) and None; or the buffer uint8 (T,) and its plan.
    """
    pending = [view for view in views if isinstance(view, PendingView)]
    if not pending:
        made = torch.from_numpy(np.stack([view for view in views if not isinstance(view, PendingView)]))
        return (made.view(-1, per_sample, *made.shape[1:]) if per_sample else made), None
    assert len(pending) == len(views), "views of two kinds in one batch"
    sizes = tuple((view.crop.shape[0], view.crop.shape[1]) for view in pending)
    buffer = torch.empty(4 * sum(height * width for height, width in sizes), dtype=torch.uint8)
    plan = ViewPlan(sizes, tuple(v.flip for v in pending), tuple(v.drawn for v in pending), pending[0].side, per_sample)
    for place, view in zip(torch.split(buffer, plan._lengths()), pending, strict=True):
        place.numpy().reshape(view.crop.shape)[...] = view.crop
    return buffer, plan
