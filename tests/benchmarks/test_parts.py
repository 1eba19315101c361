"""Each part that is timed computes what the formula counts for it, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from albef_ds.config.schema import ComputeConfig
from albef_ds.data.batch import ImageTextBatch
from albef_ds.engine.local import LocalEngine
from albef_ds.launch.planning.flops import step_flops
from albef_ds.tasks.pretrain import PretrainTask
from benchmarks.parts import Clock, measure, parts_of, rows_of
from benchmarks.step import Variant, batch_of, build
from tests.engine.zero.common import tiny_config

# torch's counter does not know the CPU's fused attention.
PLAIN_ATTENTION = ComputeConfig(attention="plain")
CONFIG = tiny_config(compute=PLAIN_ATTENTION)
CONFIG = replace(CONFIG, task=replace(CONFIG.pretraining(), mask_unfilled_queue=False))
MASKED = 2


@pytest.fixture(scope="module")
def tiny() -> tuple[LocalEngine, ImageTextBatch]:
    """A tiny model's engine and a batch."""
    batch = batch_of(CONFIG, "full")
    return build(CONFIG, Variant("", PLAIN_ATTENTION, False), torch.device("cpu"), None), batch


def test_every_part_computes_the_flops_that_the_formula_counts(tiny: tuple[LocalEngine, ImageTextBatch]) -> None:
    engine, batch = tiny
    assert isinstance(engine.task, PretrainTask)
    parts = parts_of(engine.task, batch, MASKED)
    planned = step_flops(CONFIG, masked=MASKED)
    assert [part.name for part in parts] == [flops.name for flops in planned]
    for part, flops in zip(parts, planned, strict=True):
        with FlopCounterMode(display=False) as counter:
            outputs = part.student()
        forward = flops.forward + (flops.momentum if part.momentum is None else 0.0)
        assert counter.get_total_flops() == forward, part.name
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
        assert counter.get_total_flops() == flops.backward, part.name
        if part.momentum is not None:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                part.momentum()
            assert counter.get_total_flops() == flops.momentum, part.name


def test_a_row_for_every_part_and_pass(tiny: tuple[LocalEngine, ImageTextBatch]) -> None:
    engine, batch = tiny
    assert isinstance(engine.task, PretrainTask)
    parts, clock = parts_of(engine.task, batch, MASKED), Clock(torch.device("cpu"))
    measure(engine, parts, clock, turns=1)
    rows = rows_of(CONFIG, engine, parts, clock, MASKED, ceiling=1e11)
    assert {row["part"] for row in rows} == set(clock.seconds) and len(rows) == 16
    assert sum(float(row["of all"].rstrip("%")) for row in rows) == pytest.approx(100, abs=1)
