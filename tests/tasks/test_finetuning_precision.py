"""A momentum copy in fp32 of a student in bf16, with which it shares a frozen text encoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from albef_ds.engine import build
from albef_ds.models.momentum import DenseMomentum
from tests.engine.zero.common import with_engine
from tests.tasks.finetuning import task_batch, task_config


@pytest.mark.parametrize("name", ["retrieval", "entailment", "nlvr2", "vqa"])
def test_distillation_works_across_precisions(name: str) -> None:
    config = with_engine(task_config(name), kind="local", momentum_storage="dense")
    config = replace(config, model=replace(config.model, text=replace(config.model.text, frozen=True)))
    task = build.build_task(config)
    build.attach_momentum(task, config)
    assert isinstance(task.momentum, DenseMomentum)
    batch = task_batch(name, 0, 4)
    plain, _ = task(batch, alpha=0.4)
    without, _ = task(batch, alpha=0.0)
    task.to(torch.bfloat16)
    dtypes = {parameter.dtype for parameter in task.momentum.modules.parameters()}
    assert dtypes == {torch.float32, torch.bfloat16}
    losses, _ = task(batch, alpha=0.4)
    for key, loss in losses.items():
        assert float(loss.detach()) == pytest.approx(float(plain[key].detach()), rel=0.05)
    changed = [key for key in plain if float(plain[key].detach()) != float(without[key].detach())]
    assert changed, "alpha has an effect"
