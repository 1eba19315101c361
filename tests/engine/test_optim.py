"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import ComputeConfig, OptimConfig
from albef_ds.engine.optim import learning_rate, parameter_groups, set_learning_rate
from albef_ds.models.albef import ALBEF
from tests.tasks.tiny import tiny_model, tiny_task

SPECIAL = {"temperature", "base.albef.visual_encoder.embed.cls_token", "base.albef.visual_encoder.embed.pos_embed"}
CONFIG = OptimConfig(learning_rate=1e-4, initial_learning_rate=1e-5, final_learning_rate=2e-5, warmup_samples=100)


def _names(module: nn.Module, groups: list[dict[str, Any]]) -> dict[float, set[str]]:
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return {group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


@pytest.mark.parametrize("compat", [False, True])
def test_decay_is_for_matrices(compat: bool) -> None:
    task = tiny_task()
    groups = _names(task, parameter_groups(task, OptimConfig(weight_decay=0.02), compat=compat))
    everything = {name for name, _ in task.named_parameters()}
    assert groups[0.02] | groups[0.0] == everything and not groups[0.02] & groups[0.0]
    vectors = {name for name, parameter in task.named_parameters() if parameter.dim() == 1} - SPECIAL
    assert all(name.endswith((".bias", ".weight")) for name in vectors) and len(vectors) > 20
    # The released code decays the temperature, the class token and the position table too.
    assert groups[0.0] == (vectors if compat else vectors | SPECIAL)


def test_tied_and_frozen_parameters_are_optimized_once_or_never() -> None:
    task = tiny_task(model=tiny_model(frozen=True))
    chosen = [parameter for group in parameter_groups(task, OptimConfig()) for parameter in group["params"]]
    assert len({id(parameter) for parameter in chosen}) == len(chosen)
    assert {id(parameter) for parameter in chosen} == {id(p) for p in task.parameters() if p.requires_grad}
    assert not any(p is task.model.text_encoder.embeddings.word.weight for p in chosen)


def test_a_partitioned_parameter_is_judged_by_its_whole_shape() -> None:
    layer = nn.Linear(3, 4)
    layer.weight.data = layer.weight.data.flatten()[:0]
    layer.weight.ds_shape = torch.Size((4, 3))
    assert _names(layer, parameter_groups(layer, OptimConfig(weight_decay=0.1))) == {0.1: {"weight"}, 0.0: {"bias"}}


def test_an_empty_group_is_left_out() -> None:
    assert [group["weight_decay"] for group in parameter_groups(nn.Linear(2, 2, bias=False), OptimConfig(weight_decay=0.1))] == [
        0.1
    ]


def test_warm_up_is_linear_and_meets_the_peak() -> None:
    rates = [learning_rate(CONFIG, samples, 1000) for samples in (0, 25, 50, 100)]
    assert rates == pytest.approx([1e-5, 3.25e-5, 5.5e-5, 1e-4])


def test_cosine_falls_to_the_final_rate_and_stays() -> None:
    assert learning_rate(CONFIG, 550, 1000) == pytest.approx(6e-5)
    quarter = 2e-5 + 8e-5 * (1 + math.cos(math.pi / 4)) / 2
    assert learning_rate(CONFIG, 325, 1000) == pytest.approx(quarter)
    assert learning_rate(CONFIG, 1000, 1000) == learning_rate(CONFIG, 5000, 1000) == pytest.approx(2e-5)
    rates = [learning_rate(CONFIG, samples, 1000) for samples in range(100, 1001, 50)]
    assert rates == sorted(rates, reverse=True)


def test_no_warm_up_starts_at_the_peak_and_a_short_run_never_fails() -> None:
    at_once = OptimConfig(learning_rate=1e-4, warmup_samples=0)
    assert learning_rate(at_once, 0, 1000) == pytest.approx(1e-4)
    for samples in (0, 10, 50, 100, 101):
        assert 1e-5 <= learning_rate(CONFIG, samples, 50) <= 1e-4


def test_layers_below_the_top_get_a_share_of_the_learning_rate() -> None:
    """In the manner of BEiT (Bao et al. 2022): the heads have the whole rate, each layer below them 0.5 of the one above."""
    task = tiny_task()
    groups = parameter_groups(task, OptimConfig(layer_decay=0.5, weight_decay=0.1))
    set_learning_rate(groups, 1.0)
    names = {id(parameter): name.removeprefix("base.albef.") for name, parameter in task.named_parameters()}
    rates = {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}
    assert rates.keys() == set(names.values())
    expected = {
        "itm_head.weight": 1.0,
        "text_proj.bias": 1.0,
        "visual_encoder.norm.weight": 1.0,
        "visual_encoder.blocks.1.norm1.bias": 0.5,
        "visual_encoder.blocks.0.attn.qkv.weight": 0.25,
        "visual_encoder.embed.pos_embed": 0.125,
        "multimodal_encoder.layers.1.cross_attention.query.weight": 0.5,
        "multimodal_encoder.layers.0.cross_attention.query.weight": 0.25,
        "text_encoder.layers.1.feed_forward.up.bias": 0.125,
        "text_encoder.layers.0.feed_forward.up.bias": 0.0625,
        "text_encoder.embeddings.word.weight": 0.03125,
    }
    assert {name: rates[name] for name in expected} == expected
    decays = {group["weight_decay"] for group in groups if group["rate"] == 0.5}
    assert decays == {0.1, 0.0}


def test_both_layers_of_a_pair_have_one_rate() -> None:
    albef = ALBEF(tiny_model(), ComputeConfig(), projections=False, num_images=2)
    below = [albef.layers_below_top(f"multimodal_encoder.layers.{layer}.feed_forward.up.bias") for layer in range(4)]
    assert below == [2, 2, 1, 1]


def test_nothing_to_train_is_one_line() -> None:
    with pytest.raises(ConfigError, match="no parameter of the task is trainable"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), OptimConfig())
