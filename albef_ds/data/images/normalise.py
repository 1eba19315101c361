"""Grey levels to the numbers that a model takes: done on the model's device, so that a byte per value travels there."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue between 0 and 1, as released (those of CLIP)."""
_MEAN, _STD = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
_SCALE, _SHIFT = (1 / (255 * _STD)).float(), (-_MEAN / _STD).float()


def normalise(pixels: Tensor) -> Tensor:
    """float32 (..., 3, H, W) of pictures uint8 (..., H, W, 3 or 4): each colour between 0 and 1, less MEAN, over STD."""
    return normalise_colours(pixels[..., :3].movedim(-1, -3).to(torch.float32, memory_format=torch.contiguous_format))


def normalise_colours(colours: Tensor) -> Tensor:
    """The same of grey levels in float32 (..., 3, H, W), written over them."""
    scale, shift = (values.to(colours.device, non_blocking=True) for values in (_SCALE, _SHIFT))
    return torch.addcmul(shift, colours, scale, out=colours)


def picture_of(pixels: Tensor) -> Image.Image:
    """What a model was shown, float32 (3, H, W) as `pixels_of` makes it, as a picture again."""
    plain = pixels.cpu().permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)
    return Image.fromarray((plain * 255).round().clamp(0, 255).to(torch.uint8).numpy())
