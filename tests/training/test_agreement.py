"""The ranks agree before a step on the largest of each value, in one message."""

from __future__ import annotations

import math
from dataclasses import astuple

import torch
import torch.distributed as dist

from albef_ds.common import comm
from albef_ds.training.agreement import Agreement
from tests.distributed import run_ranks

CPU = torch.device("cpu")


def test_one_process_agrees_with_itself() -> None:
    own = Agreement(15, 12.5, True, -math.inf)
    assert own.over_ranks(CPU) == own


def _agree() -> tuple[tuple[object, ...], int]:
    own = [Agreement(0, 10.0, True, -math.inf), Agreement(15, 9.5, False, 2.25)][comm.rank()]
    calls = 0
    all_reduce = dist.all_reduce

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return all_reduce(*args, **kwargs)  # type: ignore[arg-type]

    dist.all_reduce = counted  # type: ignore[assignment]
    try:
        return astuple(own.over_ranks(CPU)), calls
    finally:
        dist.all_reduce = all_reduce


def test_ranks_agree_on_the_largest_of_each_with_one_message() -> None:
    agreed = (15, 10.0, True, 2.25)
    assert run_ranks(_agree, 2) == [(agreed, 1), (agreed, 1)]
