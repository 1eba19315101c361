"""Tokens without padding: (B, L, D) with a mask as (T, D), where T is the number of true entries of the mask.

All layers but attention work on single tokens, so they run on the packed form; attention unpacks, or takes the rows of one length
together. This is exact: padding never influences a token.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    by_length: tuple[tuple[Tensor, Tensor], ...] = ()
    """Per length: its rows int64 (R,), and the packed tokens of each int64 (R, length). Empty: attention unpacks."""

    @classmethod
    def of(cls, mask: Tensor) -> Packing:
        """Returns the packing of a mask bool (B, L). On a GPU this waits for the mask, since T must be known."""
        return cls(mask.reshape(-1).nonzero().squeeze(1), *mask.shape)

    @classmethod
    def of_lengths(cls, lengths: Sequence[int], device: torch.device) -> Packing:
        """Returns the packing of rows whose first tokens are true, `lengths` of each; nothing waits for a GPU.

        On a CPU attention then takes the rows of one length together, which needs no padding. On a GPU that would be too many
        small calls.
        """
        counts = torch.tensor(lengths)
        longest, ends = int(counts.max()), counts.cumsum(0)
        rows = torch.arange(len(counts)).repeat_interleave(counts)
        tokens = torch.arange(int(ends[-1]))
        index = rows * longest + tokens - (ends - counts)[rows]
        groups = []
        if device.type == "cpu":
            for length in torch.unique(counts).tolist():
                chosen = (counts == length).nonzero().squeeze(1)
                groups.append((chosen, (ends - counts)[chosen, None] + torch.arange(length)))
        return cls(index.to(device), len(lengths), longest, tuple(groups))


def packed(hidden: Tensor, packing: Packing | None) -> Tensor:
    """(B, L, D) -> (T, D); `hidden` itself without a packing."""
    return hidden if packing is None else hidden.flatten(0, 1).index_select(0, packing.index)


def unpacked(hidden: Tensor, packing: Packing | None) -> Tensor:
    """(T, D) -> (B, L, D), zero at padding; `hidden` itself without a packing."""
    if packing is None:
        return hidden
    places = torch.zeros(packing.rows * packing.length, hidden.shape[-1], dtype=hidden.dtype, device=hidden.device)
    return places.index_copy(0, packing.index, hidden).view(packing.rows, packing.length, -1)
