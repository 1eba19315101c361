"""Fetches single rows from other ranks, with gradients, in memory that does not depend on the number of ranks.

    rank 0 wants rows 5, 1        rank 0 has rows 0 .. B-1
    rank 1 wants rows 1, 0        rank 1 has rows B .. 2B-1         ...

Every rank knows all wishes, so all make the same `RowExchange`: it spreads the wishes over rounds in which no rank sends more
than `LIMIT` times as many rows as it owns. A round is one all-to-all; a row that everybody wants takes more rounds, not more
memory. The backward pass takes the same rounds in the other direction and adds up the gradients of a row that several fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from albef_ds.common import comm

LIMIT = 2
"""Rows that a rank sends in one round, over those that it owns. On average all wishes of a step are once that many."""


@dataclass(frozen=True)
class Round:
    """The rows of one all-to-all on this rank."""

    sent: Tensor
    """int64: own rows to send, in the order of the ranks that receive them."""
    sent_to: list[int]
    """Rows for each rank."""
    received: Tensor
    """int64: places in the result of the rows that arrive, in the order of the ranks that send them."""
    received_from: list[int]


class RowExchange:
    """The rounds of one exchange on this rank.

    Args:
        wishes: int64 (N, B), the global rows that each rank wants, equal on all ranks. Rank r owns rows r B to (r + 1) B - 1.
        rank: this rank.
        device: device of the rows.
    """

    def __init__(self, wishes: Tensor, rank: int, device: torch.device) -> None:
        world_size, rows = wishes.shape
        wanted = wishes.cpu().reshape(-1)
        source = wanted // rows
        target = torch.arange(world_size).repeat_interleave(rows)
        place = torch.arange(rows).repeat(world_size)
        # The number of a wish among those that its source serves.
        order = torch.argsort(source, stable=True)
        first = torch.cumsum(torch.bincount(source, minlength=world_size), 0) - torch.bincount(source, minlength=world_size)
        number = torch.empty_like(order)
        number[order] = torch.arange(len(order)) - first[source[order]]
        turn = number // (LIMIT * rows)
        self.rows = rows
        self.rounds = []
        for one in range(int(turn.max()) + 1):
            sends, receives = (turn == one) & (source == rank), (turn == one) & (target == rank)
            arriving = torch.nonzero(receives)[:, 0]
            arriving = arriving[torch.argsort(source[arriving], stable=True)]
            self.rounds.append(
                Round(
                    (wanted[sends] % rows).to(device),
                    torch.bincount(target[sends], minlength=world_size).tolist(),
                    place[arriving].to(device),
                    torch.bincount(source[arriving], minlength=world_size).tolist(),
                )
            )

    def fetch(self, own: Tensor) -> Tensor:
        """Returns the wanted rows (B, ...) of all ranks' `own` (B, ...), with gradient."""
        fetched: Tensor = _Fetch.apply(own, self)
        return fetched


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, exchange: RowExchange) -> Tensor:
        ctx.exchange = exchange
        result = torch.empty_like(own, memory_format=torch.contiguous_format)
        for one in exchange.rounds:
            result[one.received] = comm.all_to_all(own.index_select(0, one.sent), one.sent_to, one.received_from)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        gradient = grads[0]
        # A row that many ranks fetched has many terms.
        total = torch.zeros_like(gradient, dtype=torch.promote_types(gradient.dtype, torch.float32))
        for one in ctx.exchange.rounds:
            arrived = comm.all_to_all(gradient.index_select(0, one.received), one.received_from, one.sent_to)
            total.index_add_(0, one.sent, arrived.to(total.dtype))
        return total.to(gradient.dtype), None
