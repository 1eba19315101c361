"""Decodes, crops and resizes JPEGs on a GPU (`data.jpeg_device=cuda`) by torchvision's nvJPEG. Not yet run on a GPU.

Each loader process opens the GPU itself and returns pixels on the CPU, as the CPU decoder does. The full image is decoded, since
nvJPEG does not scale. Files that it cannot decode are decoded on the CPU.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.common.device import resolve_device
from albef_ds.common.errors import MachineError, first_line
from albef_ds.data.images.view import Pixels


def check(jpeg_device: str) -> None:
    """Raises `MachineError` for `data.jpeg_device=cuda` if there is no GPU or torchvision was built without nvJPEG."""
    if jpeg_device != "cuda":
        return
    if not torch.cuda.is_available():
        raise MachineError("data.jpeg_device=cuda but torch sees no GPU: use data.jpeg_device=cpu")
    from torchvision.io import encode_jpeg  # start-up: torchvision imports torch's compiler

    try:
        decode_jpeg(encode_jpeg(torch.zeros(3, 16, 16, dtype=torch.uint8)), device())
    except RuntimeError as error:
        raise MachineError(
            f"data.jpeg_device=cuda but torchvision decodes no JPEG on it ({first_line(error)}): use data.jpeg_device=cpu"
        ) from None


def decode_jpeg(data: Tensor, device: torch.device) -> Tensor:
    """Decodes the bytes of a JPEG to RGB, uint8 (3, H, W) on `device`. Raises `RuntimeError` for what nvJPEG refuses."""
    from torchvision import io  # start-up: torchvision imports torch's compiler

    image: Tensor = io.decode_jpeg(data, io.ImageReadMode.RGB, device=device)
    return image


@cache
def device() -> torch.device:
    """This rank's GPU."""
    return resolve_device("cuda")


def cropped_view(data: bytes, box: tuple[int, int, int, int], side: int, device: torch.device) -> Pixels | None:
    """Returns the `box` (left, top, right, bottom) of a JPEG resized (bicubic, antialiased), uint8 (side, side, 4) on the CPU.

    The fourth byte is meaningless. Returns None if the file cannot be decoded or is too large to be resized on the GPU.
    """
    left, top, right, bottom = box
    try:
        image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), device)
        crop = image[None, :, top:bottom, left:right].float()
        scaled = F.interpolate(crop, (side, side), mode="bicubic", antialias=True, align_corners=False)
    except RuntimeError:
        return None
    colours = scaled[0].round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)
    result: Pixels = F.pad(colours, (0, 1)).cpu().numpy()
    return result
