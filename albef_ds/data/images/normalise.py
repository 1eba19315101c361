"""Normalises pixels on the model's device, so that only one byte per value is sent there."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in 0 to 1, as released (CLIP's values)."""
_MEAN, _STD = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
_SCALE, _SHIFT = (1 / (255 * _STD)).float(), (-_MEAN / _STD).float()


def normalise(pixels: Tensor) -> Tensor:
    """Returns float32 (..., 3, H, W) of images uint8 (..., H, W, 3 or 4): (value / 255 - MEAN) / STD per channel."""
    return normalise_colours(pixels[..., :3].movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format))


def normalise_colours(colours: Tensor) -> Tensor:
    """Normalises values 0 to 255 in float32 (..., 3, H, W) as `normalise`, in place."""
    scale, shift = (values.to(colours.device, non_blocking=True) for values in (_SCALE, _SHIFT))
    return torch.addcmul(shift, colours, scale, out=colours)


def to_pil_image(pixels: Tensor) -> Image.Image:
    """Returns the PIL image of a normalised float32 (3, H, W)."""
    plain = pixels.cpu().permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)
    return Image.fromarray((plain * 255).round().clamp(0, 255).to(torch.uint8).numpy())
