"""Tokens without padding: (B, L, D) with a mask as (T, D), where T is the number of true entries of the mask.

All layers but attention work on single tokens, so they run on the packed form; attention unpacks. This is exact: padding never
influences a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """The positions of the tokens among B x L."""

    index: Tensor
    """int64 (T,), counted row by row."""
    rows: int
    length: int

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """Returns the packing of a mask bool (B, L). On a GPU this waits for the mask, since T must be known."""
        return cls(mask.reshape(-1).nonzero().squeeze(1), *mask.shape)


def packed(hidden: Tensor, packing: Packing | None) -> Tensor:
    """(B, L, D) -> (T, D); `hidden` itself without a packing."""
    return hidden if packing is None else hidden.flatten(0, 1).index_select(0, packing.index)


def unpacked(hidden: Tensor, packing: Packing | None) -> Tensor:
    """(T, D) -> (B, L, D), zero at padding; `hidden` itself without a packing."""
    if packing is None:
        return hidden
    places = torch.zeros(packing.rows * packing.length, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    return places.index_copy(0, packing.index, hidden).view(packing.rows, packing.length, -1)
