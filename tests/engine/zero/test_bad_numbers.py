"""A loss that is infinite on one rank, with finite gradients, makes every rank at every stage skip the step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from albef_ds.common import comm
from albef_ds.engine.zero.engine import is_smallest_loss_scale
from tests.distributed import run_ranks
from tests.engine.zero.common import make, micro_batches, tiny_config, with_engine


def _plus_infinity(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(losses.values())).sum() + math.inf


def _infinite_on_rank_1(stages: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for stage in stages:
        config = with_engine(tiny_config(), stage=stage)
        task, engine = make(config)
        schedule = {"alpha": 0.4, "random_negatives": 0.3}
        engine.train_step(micro_batches(config, 0), schedule, 1e-3)
        before = engine.full_state_dict()
        if comm.rank() == 1:
            task.total = _plus_infinity  # type: ignore[method-assign,assignment]
        skipped = engine.train_step(micro_batches(config, 1), schedule, 1e-3).skipped
        after = engine.full_state_dict()
        task.__dict__.pop("total", None)
        recovered = not engine.train_step(micro_batches(config, 2), schedule, 1e-3).skipped
        found[str(stage)] = [skipped, all(torch.equal(before[name], after[name]) for name in before), recovered]
    return found


@pytest.mark.timeout(600)
def test_an_infinite_loss_on_one_rank_is_skipped_on_all() -> None:
    for rank in run_ranks(_infinite_on_rank_1, 2, [0, 1, 2, 3], timeout=500, fresh=True):
        assert rank == {str(stage): [True, True, True] for stage in range(4)}


def test_the_end_of_the_loss_scale_is_recognised() -> None:
    scaler = DynamicLossScaler(1.0, 1000, 1.0, 1, False)
    with pytest.raises(Exception, match=r"minimum") as caught:
        scaler.update_scale(True)
    assert is_smallest_loss_scale(caught.value)
    assert not is_smallest_loss_scale(RuntimeError("something else"))
