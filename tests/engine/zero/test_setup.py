"""The launch environment and DeepSpeed's configuration, made from ours."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError, MachineError
from albef_ds.config.schema import RunConfig
from albef_ds.engine.zero.setup import deepspeed_config, precision_section, prepare_environment
from tests.engine.zero.common import CPU, tiny_config, with_engine

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the environment after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in VARIABLES:
        os.environ.pop(name, None)


def test_one_process_needs_no_launcher() -> None:
    prepare_environment(CPU)
    assert [os.environ[name] for name in VARIABLES[:4]] == ["0", "0", "1", "127.0.0.1"]
    assert 0 < int(os.environ["MASTER_PORT"]) < 65536 and os.environ["DS_ACCELERATOR"] == "cpu"


def test_what_a_launcher_set_is_kept() -> None:
    given = dict(zip(VARIABLES, ("3", "1", "4", "node-7", "29500"), strict=True))
    os.environ.update(given)
    prepare_environment(CPU)
    assert {name: os.environ[name] for name in VARIABLES} == given


@pytest.mark.parametrize("missing", VARIABLES)
def test_half_a_launch_is_refused(missing: str) -> None:
    os.environ.update({name: "1" for name in VARIABLES if name != missing})
    with pytest.raises(MachineError, match=rf"^{missing} is not set though .* start with torchrun or deepspeed"):
        prepare_environment(CPU)


def _with_file(path: Path, content: dict[str, Any], stage: int) -> Any:
    path.write_text(json.dumps(content))
    return with_engine(tiny_config(), ds_config=str(path), stage=stage)


def test_knobs_of_the_file_join_what_the_settings_decide(tmp_path: Path) -> None:
    content = {"zero_optimization": {"overlap_comm": True, "reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    config = _with_file(tmp_path / "zero.json", content, stage=2)
    made = deepspeed_config(replace(config, optim=replace(config.optim, clip_norm=2.5)), "bf16", world_size=2)
    assert made["zero_optimization"] == {"stage": 2, "overlap_comm": True, "reduce_bucket_size": 1000}
    assert made["wall_clock_breakdown"] is True and made["bf16"] == {"enabled": True} and "fp16" not in made
    assert made["train_micro_batch_size_per_gpu"] == 3 and made["gradient_accumulation_steps"] == 2
    assert made["gradient_clipping"] == 2.5


def _fitting(config: RunConfig, world_size: int) -> RunConfig:
    return replace(config, train=replace(config.train, global_batch_size=world_size * config.train.micro_batch_size))


@pytest.mark.parametrize(
    ("content", "owner"),
    [
        ({"train_batch_size": 8}, "train.global_batch_size"),
        ({"zero_optimization": {"stage": 1}}, "engine.stage"),
        ({"optimizer": {}}, "optim.name"),
        ({"zero_optimization": {"stage3_max_live_parameters": 1}}, "engine.stage=3"),
    ],
)
def test_keys_that_a_setting_owns_are_refused(tmp_path: Path, content: dict[str, Any], owner: str) -> None:
    with pytest.raises(ConfigError, match=owner):
        deepspeed_config(_with_file(tmp_path / "zero.json", content, stage=2), "fp32", world_size=1)


def test_knobs_that_do_not_fit_the_ranks_or_the_clipping_are_refused(tmp_path: Path) -> None:
    config = _with_file(tmp_path / "zero.json", {"zero_optimization": {"zero_hpz_partition_size": 8}}, stage=3)
    assert deepspeed_config(_fitting(config, 8), "bf16", 8)["zero_optimization"]["zero_hpz_partition_size"] == 8
    with pytest.raises(ConfigError, match=r"zero_hpz_partition_size to 8, which does not divide 4 ranks"):
        deepspeed_config(_fitting(config, 4), "bf16", 4)
    config = _with_file(tmp_path / "zero.json", {"zero_optimization": {"compute_grad_norm": False}}, stage=2)
    assert deepspeed_config(config, "bf16", 1)["gradient_clipping"] == 0.0
    with pytest.raises(ConfigError, match=r"compute_grad_norm to false, and optim\.clip_norm needs the norm"):
        deepspeed_config(replace(config, optim=replace(config.optim, clip_norm=1.0)), "bf16", 1)


@pytest.mark.parametrize("knob", ["zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights"])
def test_quantised_messages_are_refused_where_deepspeed_has_no_kernel(
    knob: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = _with_file(tmp_path / "zero.json", {"zero_optimization": {knob: True}}, stage=3)
    with pytest.raises(ConfigError, match=f"sets zero_optimization.{knob}, whose kernels need a GPU: remove it"):
        deepspeed_config(config, "bf16", 1)
    config = _with_file(tmp_path / "zero.json", {"zero_optimization": {knob: False}}, stage=3)
    assert deepspeed_config(config, "bf16", 1)["zero_optimization"][knob] is False
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    config = _with_file(tmp_path / "zero.json", {"zero_optimization": {knob: True}}, stage=3)
    assert deepspeed_config(config, "bf16", 1)["zero_optimization"][knob] is True


def test_a_batch_that_does_not_divide_over_the_ranks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.global_batch_size 12 is not a multiple .* x 5 ranks: use 15"):
        deepspeed_config(tiny_config(), "fp32", world_size=5)


def test_fp16_scales_its_loss_and_fp32_asks_for_nothing() -> None:
    assert precision_section("fp32") == {}
    assert precision_section("fp16")["fp16"]["loss_scale"] == 0
