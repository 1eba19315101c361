"""Compiled blocks give the same results as the blocks."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from albef_ds.common.errors import ConfigError
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import ComputeConfig, RunConfig
from albef_ds.models.compilation import compile_blocks
from tests.tasks.tiny import fill_queue, random_batch, tiny_task


def test_a_step_through_compiled_blocks_has_the_same_losses_and_gradients_and_whole_graphs() -> None:
    results = []
    for compiled in (False, True):
        task = tiny_task(compute=ComputeConfig(checkpoint_text=True))
        fill_queue(task, 9)
        if compiled:
            counters.clear()
            # Without inductor, whose C++ takes a minute: what could go wrong here is the graph.
            assert compile_blocks(task, backend="aot_eager") > 0
        losses, _ = task(random_batch(4), alpha=0.4)
        task.total(losses).backward()
        results.append((losses, {name: p.grad for name, p in task.named_parameters()}))
    (plain, gradients), (losses, same) = results
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    for name, loss in plain.items():
        torch.testing.assert_close(losses[name], loss, rtol=0, atol=1e-10)
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=0, atol=1e-10)


def test_what_cannot_be_compiled_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"compute\.compile .* switch one of them off"):
        parse_overrides(RunConfig(), ["compute.compile=true", "compute.packed_text=true"])
