"""What the hardware reaches at its best: the ceilings that other figures are held against."""

from __future__ import annotations

import time

import torch


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def rate_of_products(device: torch.device, dtype: torch.dtype, size: int, times: int = 5) -> float:
    """FLOP/s of a square matrix product, the best of `times`; a multiply-add counts as 2."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(times):
        finish(device)
        start = time.perf_counter()
        left @ right
        finish(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
