"""Tokens without padding: (B, L, D) with a mask as (T, D), T being the number of tokens that the mask keeps.

Everything but attention works on single tokens, so it runs on the packed form; attention unpacks. Exact: what stood at
padding never reached a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Which of B x L places hold tokens."""

    index: Tensor
    """int64 (T,), places counted row by row."""
    rows: int
    length: int

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """From bool (B, L). On a GPU this waits for the mask, since T has to be known."""
        return cls(mask.reshape(-1).nonzero().squeeze(1), *mask.shape)


def packed(hidden: Tensor, packing: Packing | None) -> Tensor:
    """(B, L, D) -> (T, D); as it is without a packing."""
    return hidden if packing is None else hidden.flatten(0, 1).index_select(0, packing.index)


def unpacked(hidden: Tensor, packing: Packing | None) -> Tensor:
    """(T, D) -> (B, L, D), zero at padding; as it is without a packing."""
    if packing is None:
        return hidden
    places = torch.zeros(packing.rows * packing.length, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    return places.index_copy(0, packing.index, hidden).view(packing.rows, packing.length, -1)
