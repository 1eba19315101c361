"""Behaviour of DeepSpeed that `internals.py` corrects, on one rank at every stage: shows if a new version changes it."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from albef_ds.engine.zero import internals
from tests.distributed import run_ranks
from tests.engine.zero.common import make, micro_batches, tiny_batch, tiny_config, with_engine

SCHEDULE = {"alpha": 0.4}
CASES = [(stage, precision) for precision in ("fp32", "bf16") for stage in (0, 1, 2, 3)]


def _state(task: Any, engine: Any) -> dict[str, torch.Tensor]:
    state = {f"student.{name}": value.clone() for name, value in engine.full_state_dict().items()}
    state |= {f"momentum.{name}": value.clone() for name, value in task.momentum.full_state_dict().items()}
    state |= {f"queue.{name}": value.clone() for name, value in task.queue.named_buffers()}
    return state | {"generator": torch.get_rng_state()}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    return sorted({name.split(".")[0] for name in before if not torch.equal(before[name], after[name])})


def _one_stage(stage: int, precision: str) -> dict[str, Any]:
    config = with_engine(tiny_config(), stage=stage, precision=precision)
    train = replace(config.train, micro_batch_size=12)
    config = replace(config, train=train, optim=replace(config.optim, clip_norm=1.0))
    task, engine = make(config)
    engine.train_step(micro_batches(config, 0), SCHEDULE, 1e-3)
    before = _state(task, engine)
    engine.dry_run(tiny_batch(999), SCHEDULE)
    report: dict[str, Any] = {"dry_run_moved": _moved(before, _state(task, engine))}

    hook = task.itm_head.register_forward_hook(lambda _module, _inputs, output: output * float("nan"))
    result = engine.train_step(micro_batches(config, 1), SCHEDULE, 1e-3)
    hook.remove()
    report |= {"skipped": result.skipped, "norm": result.grad_norm, "poison_moved": _moved(before, _state(task, engine))}
    result = engine.train_step(micro_batches(config, 2), SCHEDULE, 1e-3)
    report |= {"recovered": not result.skipped and all(v.isfinite().all() for v in engine.full_state_dict().values())}

    internals.clamp(task.temperature, 0.25, 0.5)
    report["master"] = float(internals.full_master(task.temperature))
    report["seen"] = engine.train_step(micro_batches(config, 3), SCHEDULE, 0.0).metrics["temperature"]
    report["kept"] = float(internals.full_master(task.temperature))
    report["compiler"] = "torch._inductor.compile_fx" in sys.modules
    return report


def _all_stages() -> list[dict[str, Any]]:
    return [_one_stage(*case) for case in CASES]


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    return list(run_ranks(_all_stages, 1, timeout=280, fresh=True)[0])


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"stage {stage} {precision}" for stage, precision in CASES])
class TestEveryStage:
    def test_a_dry_run_leaves_no_trace(self, reports: list[dict[str, Any]], case: int) -> None:
        assert reports[case]["dry_run_moved"] == []

    def test_gradients_that_are_not_finite_move_nothing(self, reports: list[dict[str, Any]], case: int) -> None:
        report = reports[case]
        assert report["skipped"] and not report["norm"] < float("inf")
        # The next batch of the queue may be drawn from the generator, never the step's effects.
        assert set(report["poison_moved"]) <= {"generator"} and report["recovered"]

    def test_clamp_reaches_the_master_and_what_the_next_forward_sees(self, reports: list[dict[str, Any]], case: int) -> None:
        report = reports[case]
        assert report["master"] == report["seen"] == report["kept"] == 0.25


def test_deepspeed_loads_no_compiler_for_an_optimizer_that_is_not_ours(reports: list[dict[str, Any]]) -> None:
    assert not any(report["compiler"] for report in reports)
