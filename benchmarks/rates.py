"""Measures the best rates of the hardware, with which other figures are compared."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch


def finish(device: torch.device) -> None:
    """Waits until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def rates_of_products(device: torch.device, dtypes: Sequence[torch.dtype], size: int, times: int = 5) -> list[float]:
    """FLOP/s of a square matrix product in each precision, the best of `times` in turn; a multiply-add counts as 2."""
    factors = [[torch.randn(size, size, device=device).to(dtype) for _ in range(2)] for dtype in dtypes]
    best = [0.0] * len(dtypes)
    for _ in range(times):
        for number, (left, right) in enumerate(factors):
            finish(device)
            start = time.perf_counter()
            left @ right
            finish(device)
            best[number] = max(best[number], 2 * size**3 / (time.perf_counter() - start))
    return best


def rate_of_products(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """`rates_of_products` for one precision."""
    return rates_of_products(device, [dtype], size)[0]
