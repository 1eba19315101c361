"""Every fine-tuning task under ZeRO-2 and ZeRO-3 on two ranks equals the plain engine's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from albef_ds.config.schema import RunConfig, VqaConfig
from tests.distributed import run_ranks
from tests.engine.zero.common import with_checkpointing, with_engine
from tests.tasks.finetuning import TASKS, run_task, task_config

BOUND = 1e-5
# AdamW turns the rounding of a gradient near 0 into a step of up to the learning rate (1e-3) times the number of steps.
WEIGHT_BOUND = 1e-4


def _config(name: str) -> RunConfig:
    """One layer of everything: that layers follow each other as they should is seen in tests/engine/zero/test_engine.py."""
    config = task_config(name)
    vision, text = replace(config.model.vision, depth=1), replace(config.model.text, num_layers=1, num_fusion_layers=1)
    task = replace(config.task, decoder_layers=1) if isinstance(config.task, VqaConfig) else config.task
    return replace(config, model=replace(config.model, vision=vision, text=text), task=task)


def _under_zero() -> dict[str, dict[str, Any]]:
    """Runs all tasks and stages in one set of processes, since starting them costs more than a run."""
    results = {}
    for name in TASKS:
        for stage, recompute in ((2, False), (3, True)):
            config = _config(name)
            config = with_engine(with_checkpointing(config) if recompute else config, stage=stage)
            results[f"{name}, stage {stage}"] = run_task(name, config)
    return results


@pytest.mark.timeout(900)
def test_every_task_under_zero_equals_the_plain_engine() -> None:
    results = run_ranks(_under_zero, 2, timeout=600, fresh=True)
    for name in TASKS:
        expected = run_task(name, with_engine(_config(name), kind="local", momentum_storage="dense"))
        for stage in (2, 3):
            where, got = f"{name}, stage {stage}", results[0][f"{name}, stage {stage}"]
            for ours, theirs in zip(got["losses"], expected["losses"], strict=True):
                assert ours == pytest.approx(theirs, rel=BOUND), where
            assert got["norms"] == pytest.approx(expected["norms"], rel=1e-4), where
            for part in ("student", "momentum"):
                _assert_close(got[part], expected[part], f"{where}: {part}")


def _assert_close(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: str) -> None:
    assert set(got) <= set(expected), where  # a tied tensor is listed under each of its names by some
    assert got or not expected, where
    for name in got:
        largest = float((got[name] - expected[name]).abs().max())
        # Keys' biases have no true gradient: AdamW steps by the learning rate along its rounding noise.
        bound = 5e-3 if name.endswith(("key.bias", "qkv.bias")) else WEIGHT_BOUND
        assert largest <= bound, f"{where}: {name} {largest}"
