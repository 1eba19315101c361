"""Draws hard negatives (paper section 3.2, ITM), with the same result on any number of ranks.

Noise is a hash of (seed, sample positions), so the negative of a sample depends neither on the rank that draws it nor on
the step at which a run was resumed.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

Word = TypeVar("Word", Tensor, int)
_MASK32 = 0xFFFFFFFF


def _mix(x: Word) -> Word:
    # A 32-bit finaliser with full avalanche. A product may wrap int64, but only its low 32 bits are kept, which are exact.
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK32
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK32
    return x ^ (x >> 16)


def hashed_uniform(seed: int, *keys: Tensor | int) -> Tensor:
    """Returns fp64 numbers in (0, 1), one per broadcast element of the int64 `keys`; equal keys give equal numbers.

    Pass a key that is the same for all elements as an `int`: a GPU would have to wait for a tensor of it.
    """
    state: Any = seed & _MASK32
    for key in keys:
        state = _mix(state ^ (key & _MASK32))
        state = _mix((state + 0x9E3779B9) & _MASK32 ^ ((key >> 32) & _MASK32))
    uniform: Tensor = (state.double() + 0.5) / 2.0**32
    return uniform


def gumbel(uniform: Tensor) -> Tensor:
    """Returns standard Gumbel noise from numbers in (0, 1): argmax(logits + gumbel) samples from softmax(logits)."""
    return -torch.log(-torch.log(uniform))


@torch.no_grad()
def sample_negatives(logits: Tensor, allowed: Tensor, own: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """Draws one negative per row from the softmax of `logits` over the `allowed` columns (paper section 3.2, ITM).

    Logits are masked before the softmax and sampled by Gumbel-max, so no row can have zero mass. A row without allowed columns
    (every candidate is a known positive) is sampled uniformly over all columns but its own.

    Args:
        logits: (B, K) similarities.
        allowed: bool (B, K).
        own: int64 (B,), the column of each row's own pair, never drawn.
        noise: Gumbel noise (B, K); 0 takes the hardest negative.

    Returns:
        int64 (B,) column indices.
    """
    logits = logits.double().nan_to_num(nan=0.0)
    impossible = ~allowed.any(dim=1, keepdim=True)
    logits = torch.where(impossible, torch.zeros_like(logits), logits)
    candidates = (allowed | impossible).scatter(1, own[:, None], False)
    return (logits + noise).masked_fill(~candidates, float("-inf")).argmax(dim=1)
