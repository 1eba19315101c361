"""Fetched rows and their gradients equal those of a gathered whole, in rounds that bound what a rank sends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef_ds.common import comm
from albef_ds.common.row_exchange import LIMIT, RowExchange
from tests.distributed import run_ranks

ROWS, WIDTH = 3, 5


def _wishes(kind: str, world_size: int) -> Tensor:
    total = world_size * ROWS
    if kind == "one row":
        return torch.full((world_size, ROWS), total - 2)
    generator = torch.Generator().manual_seed(7)
    return torch.randint(total, (world_size, ROWS), generator=generator)


def _values(rank: int) -> Tensor:
    return torch.randn(ROWS, WIDTH, 2, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def _fetch(kind: str) -> tuple[Tensor, Tensor, list[int], list[int]]:
    wishes = _wishes(kind, comm.world_size())
    exchange = RowExchange(wishes, comm.rank(), torch.device("cpu"))
    own = _values(comm.rank()).requires_grad_()
    fetched = exchange.fetch(own)
    (fetched * (1.0 + comm.rank())).square().sum().backward()
    assert own.grad is not None
    return fetched.detach(), own.grad, [len(one.sent) for one in exchange.rounds], [len(one.received) for one in exchange.rounds]


@pytest.mark.parametrize(("kind", "world_size"), [("any rows", 1), ("any rows", 2), ("any rows", 4), ("one row", 4)])
def test_rows_and_gradients_are_those_of_a_gathered_whole(kind: str, world_size: int) -> None:
    whole = torch.cat([_values(rank) for rank in range(world_size)]).requires_grad_()
    wishes = _wishes(kind, world_size)
    expected = [whole[wishes[rank]] for rank in range(world_size)]
    sum((rows * (1.0 + rank)).square().sum() for rank, rows in enumerate(expected)).backward()  # type: ignore[union-attr]
    assert whole.grad is not None
    for rank, (rows, gradient, sent, received) in enumerate(run_ranks(_fetch, world_size, kind)):
        assert torch.equal(rows, expected[rank].detach())
        torch.testing.assert_close(gradient, whole.grad[rank * ROWS :][:ROWS])
        assert max(sent) <= LIMIT * ROWS and sum(received) == ROWS
        assert len(sent) == (2 if kind == "one row" else 1)


def test_a_rank_sends_no_more_rows_at_once_whatever_the_number_of_ranks() -> None:
    for world_size in (64, 512):
        rounds = [RowExchange(_wishes("one row", world_size), rank, torch.device("cpu")).rounds for rank in (0, world_size - 1)]
        assert len(rounds[0]) == len(rounds[1]) == world_size // LIMIT
        assert max(len(one.sent) for one in rounds[1]) == LIMIT * ROWS
        assert not any(len(one.sent) for one in rounds[0])
    even = RowExchange(torch.arange(512 * ROWS).view(512, ROWS).roll(7, 0), 3, torch.device("cpu"))
    assert [len(one.sent) for one in even.rounds] == [ROWS]
