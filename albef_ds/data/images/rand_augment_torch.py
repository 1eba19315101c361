"""RandAugment over a batch on any device; images that drew the same kind of operation are processed together.

Results equal those of `data/images/rand_augment_numpy.py` up to rounding: at most one grey level per operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.data.images.rand_augment import ENHANCE, GREY, LAYERS, Drawn, Operation, movement


def rand_augment(colours: Tensor, drawn: Sequence[Sequence[Drawn]]) -> Tensor:
    """Returns integer values 0 to 255 in float32 (N, 3, H, W) after the operations `drawn` for each image."""
    colours = colours.clone()
    for layer in range(LAYERS):
        chosen = {row: steps[layer] for row, steps in enumerate(drawn) if layer < len(steps)}
        for operation, apply in _TONES.items():
            _replace(colours, [row for row, (kind, _) in chosen.items() if kind is operation], apply)
        moved = {row: step for row, step in chosen.items() if step[0].moves}
        _replace(colours, list(moved), partial(_moved, steps=list(moved.values())))
    return colours


def _replace(colours: Tensor, rows: list[int], change: Callable[[Tensor], Tensor]) -> None:
    if rows:
        index = torch.tensor(rows).to(colours.device, non_blocking=True)
        colours.index_copy_(0, index, change(colours.index_select(0, index)))


def _auto_contrast(colours: Tensor) -> Tensor:
    low, high = colours.amin((-2, -1), keepdim=True), colours.amax((-2, -1), keepdim=True)
    span = (high - low).clamp(min=1).double()
    scale = torch.full_like(span, 255) / span  # `255 / span` computes the reciprocal times 255, which turns 255 into 254
    stretched = (colours * scale - low * scale).clamp_(0, 255).floor_().float()
    return torch.where(high > low, stretched, colours)


def _released_auto_contrast(colours: Tensor) -> Tensor:
    low, high = colours.amin((-2, -1), keepdim=True), colours.amax((-2, -1), keepdim=True)
    return torch.where((low > 0) & (high > low), 255.0, _auto_contrast(colours))


def _equalize(colours: Tensor) -> Tensor:
    levels = colours.long().flatten(-2)
    counts = torch.zeros(*levels.shape[:-1], 256, dtype=torch.int64, device=colours.device)
    counts.scatter_add_(-1, levels, torch.ones_like(levels))
    last = counts.gather(-1, levels.amax(-1, keepdim=True))
    step = (counts.sum(-1, keepdim=True) - last) // 255
    table = ((step // 2 + counts.cumsum(-1) - counts) // step.clamp(min=1)).clamp(0, 255)
    spread = table.gather(-1, levels).view_as(colours).float()
    return torch.where(step[..., None] > 0, spread, colours)


def _brighter(colours: Tensor) -> Tensor:
    return (colours.double() * ENHANCE).clamp_(0, 255).floor_().float()


def _sharper(colours: Tensor) -> Tensor:
    if min(colours.shape[-2:]) < 3:
        return colours
    middle, smooth = _smoothed(colours)
    result = colours.clone()
    change = torch.floor((middle - smooth) * (round((ENHANCE - 1) * 256) / 256))
    result[..., 1:-1, 1:-1] = (middle + change).clamp_(0, 255)
    return result


def _released_sharper(colours: Tensor) -> Tensor:
    if min(colours.shape[-2:]) < 3:
        return colours
    middle, smooth = _smoothed(colours)
    result = colours.clone()
    result[..., 1:-1, 1:-1] = (smooth + ENHANCE * (middle - smooth)).trunc_().remainder_(256)
    return result


def _smoothed(colours: Tensor) -> tuple[Tensor, Tensor]:
    middle = colours[..., 1:-1, 1:-1]
    around = F.avg_pool2d(colours, 3, stride=1, divisor_override=1)
    return middle, torch.floor((around + 4 * middle + 6) / 13)  # its weight is 5, that of its neighbours 1


_TONES: dict[Operation, Callable[[Tensor], Tensor]] = {
    Operation.AUTO_CONTRAST: _auto_contrast,
    Operation.EQUALIZE: _equalize,
    Operation.BRIGHTNESS: _brighter,
    Operation.SHARPNESS: _sharper,
    Operation.RELEASED_AUTO_CONTRAST: _released_auto_contrast,
    Operation.RELEASED_SHARPNESS: _released_sharper,
}


def _moved(colours: Tensor, steps: Sequence[Drawn]) -> Tensor:
    """Returns bilinear samples at the points given by each image's matrix; grey outside the image."""
    height, width = colours.shape[-2:]
    matrices = torch.tensor([movement(operation, sign, width, height) for operation, sign in steps])
    a, b, c, d, e, f = matrices.to(colours.device, non_blocking=True).view(-1, 6, 1, 1).unbind(1)
    x = torch.arange(width, device=colours.device) + 0.5
    y = (torch.arange(height, device=colours.device) + 0.5)[:, None]
    from_x, from_y = a * x + b * y + c, d * x + e * y + f
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    grid = torch.stack([2 * from_x / width - 1, 2 * from_y / height - 1], dim=-1)
    sampled = F.grid_sample(colours, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.where(inside[:, None], torch.floor(sampled + 0.5), GREY)
