"""The planner's activation bytes equal those that autograd saves in a real forward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from albef_ds.config.schema import (
    ComputeConfig,
    DataConfig,
    EngineConfig,
    PretrainConfig,
    RunConfig,
    TrainConfig,
)
from albef_ds.launch.planning.activations import Compute, activations
from tests.distributed import run_ranks
from tests.launch.planning.saved import saved_bytes
from tests.tiny import tiny_model

BOUND = 0.01
# Worst measured: 0.006.


def small(precision: str, dropout: float, **compute: Any) -> RunConfig:
    """Widths, depths and lengths that all differ, so that no two terms can be mistaken for each other."""
    return RunConfig(
        model=tiny_model(
            vision={"image_size": 64, "width": 64, "depth": 3},
            text={
                "vocab_size": 501,
                "width": 48,
                "num_fusion_layers": 3,
                "intermediate_width": 192,
                "max_positions": 64,
                "dropout": dropout,
            },
            embed_dim=16,
        ),
        compute=ComputeConfig(**compute),
        task=PretrainConfig(queue_size=64),
        data=DataConfig(max_tokens=12),
        engine=EngineConfig(kind="zero", stage=0, device="cpu", precision=precision),  # type: ignore[arg-type]
        train=TrainConfig(micro_batch_size=4, global_batch_size=4),
    )


def planned_bytes(config: RunConfig, world_size: int = 1) -> int:
    """Returns the planner's sum, without the tensors that exist only while a layer is recomputed."""
    return sum(part.kept for part in activations(config, Compute.of(config, config.engine.precision, "cpu"), world_size))


RECOMPUTE = {"checkpoint_visual": True, "checkpoint_text": True, "checkpoint_multimodal": True}
RELEASED = {"share_cross_kv": False, "mlm_masked_only": False, "itm_cls_only": False, "one_fusion_call": False}


@pytest.mark.parametrize(
    ("precision", "dropout", "compute"),
    [
        ("fp32", 0.1, {}),
        ("fp32", 0.0, {"attention": "sdpa"}),
        ("bf16", 0.1, {}),
        ("bf16", 0.0, {"attention": "sdpa"}),
        ("fp32", 0.1, RECOMPUTE),
        ("bf16", 0.0, {"attention": "sdpa", **RECOMPUTE}),
        ("fp32", 0.1, {"checkpoint_visual": True}),
        ("fp32", 0.1, RELEASED),
        ("fp32", 0.1, {"one_fusion_call": False}),
        ("fp32", 0.0, {"one_fusion_call": False, "attention": "sdpa"}),
        ("bf16", 0.1, {"one_fusion_call": False, "itm_cls_only": False}),
        ("fp32", 0.1, {"share_cross_kv": False}),
    ],
)
def test_activations_are_what_autograd_saves(precision: str, dropout: float, compute: dict[str, Any]) -> None:
    config = small(precision, dropout, **compute)
    assert planned_bytes(config) == pytest.approx(saved_bytes(config), rel=BOUND)


@pytest.mark.parametrize("compute", [{}, {"attention": "sdpa"}, {"one_fusion_call": False}, {"share_cross_kv": False}])
def test_negatives_of_other_ranks_are_counted(compute: dict[str, Any]) -> None:
    config = small("fp32", 0.0, **compute)
    config = replace(
        config, task=replace(config.pretraining(), gather_negatives=True), train=replace(config.train, global_batch_size=8)
    )
    for saved in run_ranks(saved_bytes, 2, config):
        assert planned_bytes(config, 2) == pytest.approx(saved, rel=BOUND)


def test_a_convolution_stem_and_frozen_encoders_are_counted() -> None:
    config = small("fp32", 0.1)
    model = replace(
        config.model, vision=replace(config.model.vision, stem="convolution"), text=replace(config.model.text, frozen=True)
    )
    config = replace(config, model=model)
    assert planned_bytes(config) == pytest.approx(saved_bytes(config), rel=BOUND)
    images = replace(model, vision=replace(model.vision, frozen=True))
    config = replace(config, model=images)
    assert planned_bytes(config) == pytest.approx(saved_bytes(config), rel=BOUND)
