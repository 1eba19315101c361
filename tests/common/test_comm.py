"""Collectives on real gloo ranks, and their identity in one process."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist

from albef_ds.common import comm
from tests.distributed import RankError, run_ranks

CPU = torch.device("cpu")


def _rows(rank: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (torch.arange(6).reshape(2, 3) + 10 * rank).to(dtype)


def _check_collectives() -> dict[str, object]:
    """Several checks in one group: each costs a round of messages only."""
    rank, world = comm.rank(), comm.world_size()
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool)
    gathered = {}
    for dtype in dtypes:
        expected = torch.cat([_rows(r, dtype) for r in range(world)])
        gathered[str(dtype)] = bool(torch.equal(comm.all_gather(_rows(rank, dtype)), expected))
    # An odd number of bytes before each of the wider ones.
    together = [_rows(rank, torch.bool)[:, :1], *(_rows(rank, dtype) for dtype in dtypes), _rows(rank, torch.int64)[:, 0]]
    found = comm.all_gather_together(together)
    gathered["together"] = all(
        torch.equal(own, comm.all_gather(one)) and own.dtype == one.dtype for own, one in zip(found, together, strict=True)
    )
    return {
        "gathered": gathered,
        "no_grad": comm.all_gather(_rows(rank).requires_grad_()).requires_grad,
        "mean": comm.all_reduce_mean({"b": rank + 0.5, "a": 2.0 * rank}, CPU),
        "sum": comm.all_reduce_sum(torch.tensor([1.0 + rank])).item(),
        "numbers": comm.all_gather_numbers([7 - rank, rank], CPU),
        "object": comm.broadcast_object({"from": rank}),
        "distributed": comm.is_distributed(),
    }


@pytest.mark.parametrize("world", [1, 2, 4])
def test_collectives_agree_on_every_rank(world: int) -> None:
    for got in run_ranks(_check_collectives, world):
        assert all(got["gathered"].values()), got["gathered"]
        assert not got["no_grad"]
        assert got["mean"] == {"a": world - 1.0, "b": world / 2}
        assert got["sum"] == world * (world + 1) / 2
        assert got["numbers"] == [[7 - other, other] for other in range(world)]
        assert got["object"] == {"from": 0}
        assert got["distributed"] == (world > 1)


def test_one_process_without_a_group_is_rank_0_of_1() -> None:
    x = _rows(0).requires_grad_()
    assert (comm.rank(), comm.world_size(), comm.is_distributed()) == (0, 1, False)
    assert torch.equal(comm.all_gather(x), x) and not comm.all_gather(x).requires_grad
    [same] = comm.all_gather_together([x])
    assert torch.equal(same, x) and not same.requires_grad
    assert comm.all_reduce_mean({"a": 1.0}, CPU) == {"a": 1.0}
    assert comm.all_gather_numbers([3, 4], CPU) == [[3, 4]]
    assert comm.broadcast_object("x") == "x"
    comm.barrier()


def _fail_on_rank_1() -> None:
    if comm.rank() == 1:
        raise KeyError("lost on purpose")
    dist.barrier()


def _hang_on_rank_0() -> None:
    if comm.rank() == 0:
        time.sleep(60)


def test_a_failing_or_hanging_rank_is_named_and_the_next_call_works() -> None:
    with pytest.raises(RankError, match="lost on purpose"):
        run_ranks(_fail_on_rank_1, 2)
    with pytest.raises(RankError, match="no result within 1 s"):
        run_ranks(_hang_on_rank_0, 2, timeout=1)
    assert [got["numbers"] for got in run_ranks(_check_collectives, 2)] == 2 * [[[7, 0], [6, 1]]]
