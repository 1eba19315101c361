"""Compiled blocks under ZeRO-3: the same numbers, and no hook breaks their graphs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from albef_ds.config.schema import ComputeConfig
from albef_ds.engine import build
from albef_ds.models.compilation import compile_blocks
from tests.distributed import run_ranks
from tests.engine.zero.common import largest_difference, run_steps, tiny_config, with_engine

STEPS = 2


def _plain_and_compiled() -> dict[str, Any]:
    # Without inductor, whose C++ takes minutes: what could go wrong here is the graph.
    build.compile_blocks = partial(compile_blocks, backend="aot_eager")
    recomputed = ComputeConfig(checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
    plain = replace(with_engine(tiny_config(), stage=3), compute=recomputed)
    compiled = replace(plain, compute=replace(recomputed, compile=True))
    runs = run_steps(plain, STEPS), run_steps(compiled, STEPS)
    graphs = {"graphs": counters["stats"]["unique_graphs"], "breaks": dict(counters["graph_break"])}
    return {"runs": runs, "linear": str(torch.nn.functional.linear.__module__), **graphs}


@pytest.mark.timeout(600)
def test_compiled_blocks_train_alike_at_stage_3_with_whole_graphs() -> None:
    result = run_ranks(_plain_and_compiled, 1, timeout=500, fresh=True)[0]
    assert result["graphs"] >= 2 and not result["breaks"]  # the blocks of both unimodal encoders
    assert "deepspeed" not in result["linear"]  # DeepSpeed's has no gradients in compiled blocks with torch 2.11
    plain, compiled = result["runs"]
    for ours, theirs in zip(compiled["losses"], plain["losses"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    for part in ("student", "momentum"):
        assert largest_difference(compiled[part], plain[part]) < 2e-4, part
