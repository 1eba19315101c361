"""The configuration determines momentum model and engine; settings that exclude each other are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from albef_ds.checkpoint.initial.load import load_initial_weights
from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.config.schema import ComputeConfig, InitConfig, RunConfig
from albef_ds.engine.build import attach_momentum, build_engine, build_task, start_ranks
from albef_ds.engine.local import LocalEngine
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.models.momentum import DenseMomentum
from tests.engine.zero.common import CPU, tiny_config, with_engine


def local(**changes: Any) -> RunConfig:
    return with_engine(tiny_config(), kind="local", **changes)


def test_the_seed_alone_decides_the_initial_weights() -> None:
    config = local()
    first, again = build_task(config), build_task(config)
    other = build_task(replace(config, train=replace(config.train, seed=7)))
    weights = [dict(task.named_parameters())["itm_head.weight"] for task in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("storage", "kind"), [("dense", DenseMomentum), ("value_residual", ShardedMomentum)])
def test_momentum_storage_chooses_the_momentum_model_and_it_starts_as_the_student(storage: str, kind: type) -> None:
    task = build_task(local())
    attach_momentum(task, local(momentum_storage=storage))
    assert isinstance(task.momentum, kind)
    students = dict(task.base.named_parameters(remove_duplicate=False))
    for name, weights in task.momentum.full_state_dict().items():
        torch.testing.assert_close(weights, students[name].detach(), rtol=1e-6, atol=1e-7)


def test_the_plain_engine_refuses_fp16_which_needs_loss_scaling() -> None:
    task = build_task(local())
    assert isinstance(build_engine(task, local(), CPU, "fp32"), LocalEngine)
    with pytest.raises(ConfigError, match=r"no loss scaling for fp16: use engine\.kind=zero or engine\.precision=bf16"):
        build_engine(task, local(), CPU, "fp16")


def test_fused_losses_are_refused_on_a_cpu() -> None:
    config = replace(local(), compute=ComputeConfig(wide_losses="triton"))
    with pytest.raises(MachineError, match=r"compute\.wide_losses=triton needs a GPU: use compute\.wide_losses=sliced"):
        build_engine(build_task(config), config, torch.device("cpu"), "fp32")


def test_the_momentum_updates_kernel_is_refused_where_it_cannot_run() -> None:
    triton = ComputeConfig(momentum_update="triton")
    config = replace(local(momentum_storage="value_residual"), compute=triton)
    with pytest.raises(MachineError, match=r"compute\.momentum_update=triton needs a GPU: use compute\.momentum_update=auto"):
        build_engine(build_task(config), config, CPU, "fp32")
    with pytest.raises(ConfigError, match=r"compute\.momentum_update of triton does not update engine\.momentum_storage=dense"):
        replace(local(momentum_storage="dense"), compute=triton)


def test_the_plain_engine_is_not_started_on_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    start_ranks(local(), CPU)
    assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"engine\.kind=local runs one process: use engine\.kind=zero"):
        start_ranks(local(), CPU)


@pytest.mark.parametrize("name", ["visual_encoder", "text_encoder"])
def test_random_weights_have_to_be_asked_for(name: str) -> None:
    config = local()
    scratch = InitConfig(visual_encoder="scratch", text_encoder="scratch")
    task = build_task(config)
    assert all("random weights, as asked for" in line for line in load_initial_weights(task, replace(config, init=scratch)))
    with pytest.raises(ConfigError, match=rf"init\.{name} is not set.*init\.{name}=scratch"):
        load_initial_weights(task, replace(config, init=replace(scratch, **{name: ""})))
