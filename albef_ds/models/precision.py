"""The precision of losses and features."""

from __future__ import annotations

from torch import Tensor


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Returns `tensor`, converted to fp32 if its dtype is narrower; fp64 stays."""
    return tensor if tensor.dtype.itemsize >= 4 else tensor.float()
