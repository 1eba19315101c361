"""Every ZeRO stage, number of ranks and recomputation gives the plain engine's results."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from albef_ds.config.schema import ComputeConfig
from tests.distributed import run_ranks
from tests.engine.zero.common import largest_difference, run_steps, tiny_config, with_checkpointing, with_engine

STEPS = 4
"""The queue of 30 wraps around in the third step of 12."""
LOSS_BOUND = 1e-5
# Worst measured: 2e-5 at stage 3, whose gradients are summed in another order; AdamW turns the rounding of a gradient near 0
# into a step of up to the learning rate (1e-3).
WEIGHT_BOUND = 2e-4


ALIGN = 4


@lru_cache
def _reference(align: int = 0) -> dict[str, Any]:
    """LocalEngine with the dense fp32 momentum copy, micro-batches of 3."""
    return run_steps(with_engine(tiny_config(), kind="local", momentum_storage="dense"), STEPS, align=align)


def _every_stage(aligned_too: bool) -> dict[str, dict[str, Any]]:
    """Does all runs in one set of processes, since starting them costs more than a run."""
    results = {}
    for checkpointing in (False, True):
        config = with_checkpointing(tiny_config()) if checkpointing else tiny_config()
        for stage in (0, 1, 2, 3):
            name = f"stage {stage}, recomputation {checkpointing}"
            results[name] = run_steps(with_engine(config, stage=stage), STEPS, dry_run=True)
    packed = replace(tiny_config(), compute=ComputeConfig(packed_text=True))
    for stage in (2, 3) if aligned_too else ():
        results[f"stage {stage}, aligned first, no padding"] = run_steps(with_engine(packed, stage=stage), STEPS, align=ALIGN)
    return results


@pytest.mark.timeout(900)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_stages_and_recomputation_equal_the_plain_engine(world_size: int) -> None:
    results = run_ranks(_every_stage, world_size, world_size == 2, timeout=600, fresh=True)
    assert len(results[0]) == (10 if world_size == 2 else 8)
    for where, result in results[0].items():
        reference = _reference(ALIGN if "aligned" in where else 0)
        for ours, theirs in zip(result["losses"], reference["losses"], strict=True):
            for name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=LOSS_BOUND), f"{world_size} ranks, {where}: {name}"
        assert result["norms"] == pytest.approx(reference["norms"], rel=1e-4), where
        assert largest_difference(result["student"], reference["student"]) < WEIGHT_BOUND, where
        assert largest_difference(result["momentum"], reference["momentum"]) < WEIGHT_BOUND, where
