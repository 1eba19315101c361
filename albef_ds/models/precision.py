"""The precision that losses and features are computed in."""

from __future__ import annotations

from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """`tensor`, converted to fp32 if its numbers are narrower; fp64 stays."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
