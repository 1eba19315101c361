"""Whole parameters under ZeRO-3: the plan's figure beside what an engine of DeepSpeed holds in a forward pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common import comm
from albef_ds.launch.planning.parameter_counts import count
from albef_ds.launch.planning.training_state import Zero, gathered
from tests.distributed import run_ranks
from tests.engine.zero.common import make, micro_batches, tiny_config, with_engine

ELEMENT = 4
"""Bytes in fp32."""
PERSISTENCE = 600
"""Elements up to which a parameter stays whole, here far below the largest one."""
CASES = {
    "defaults": {},
    "no reuse": {"max_reuse_distance": 0, "prefetch_bucket_size": 0},
    "some reuse": {"max_reuse_distance": 40_000, "prefetch_bucket_size": 0},
    "few ahead": {"max_reuse_distance": 20_000, "prefetch_bucket_size": 10_000, "max_live_parameters": 1_000},
    "many ahead": {"max_reuse_distance": 0, "prefetch_bucket_size": 1_000},
}


def _held(knobs: dict[str, int], folder: str) -> dict[str, int]:
    """Elements of large parameters that are whole in a forward pass, at most, and the plan's."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    path = Path(folder) / f"zero-{comm.rank()}.json"
    zero = {f"stage3_{name}": value for name, value in knobs.items()}
    path.write_text(json.dumps({"zero_optimization": {"stage3_param_persistence_threshold": PERSISTENCE, **zero}}))
    config = with_engine(tiny_config(), stage=3, ds_config=str(path))
    config = replace(config, train=replace(config.train, global_batch_size=6))
    task, engine = make(config)
    found = []

    def look(*_: Any) -> None:
        whole = [p.ds_numel for p in task.parameters() if p.ds_status == ZeroParamStatus.AVAILABLE]  # type: ignore[attr-defined]
        found.append(sum(numel for numel in whole if numel > PERSISTENCE))

    for module in task.modules():  # after DeepSpeed's own hook, which gathers the module's parameters
        module.register_forward_pre_hook(look)
    for step in range(3):
        engine.train_step(micro_batches(config, step), {"alpha": 0.0, "random_negatives": 0.3}, 1e-3)
    return {"held": max(found), "planned": gathered(count(config), Zero.of(config), ELEMENT, 2) // ELEMENT}


def _all(folder: str) -> dict[str, dict[str, int]]:
    return {name: _held(knobs, folder) for name, knobs in CASES.items()}


@pytest.mark.timeout(300)
def test_the_plan_bounds_what_deepspeed_holds_except_where_it_gathers_far_ahead(tmp_path: Path) -> None:
    results = run_ranks(_all, 2, str(tmp_path), timeout=250, fresh=True)[0]
    for name in ("defaults", "no reuse"):
        assert results[name]["planned"] == results[name]["held"], results
    for name in ("some reuse", "few ahead"):
        assert 1.0 <= results[name]["planned"] / results[name]["held"] < 1.7, results
    assert results["many ahead"]["held"] > 3 * results["many ahead"]["planned"], "docs/memory.md says that it holds more"
