"""The planner's bytes of weights, gradients, optimizer, momentum, queue and buckets equal those that DeepSpeed holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed import run_ranks
from tests.launch.planning.census import SETTINGS, few_million, held_at_every_setting, planned, with_setting

BOUND = 0.02


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_stage_and_precision_holds_what_was_planned(tmp_path: Path, world_size: int) -> None:
    config = few_million(tmp_path)
    ranks = run_ranks(held_at_every_setting, world_size, config, timeout=280, fresh=True)
    for stage, precision in SETTINGS:
        expected = planned(with_setting(config, stage, precision, world_size), world_size)
        for name, num_bytes in expected.items():
            real = max(rank[f"{stage} {precision}"][name] for rank in ranks)
            assert num_bytes == pytest.approx(real, rel=BOUND), f"stage {stage}, {precision}, {world_size} ranks: {name}"
