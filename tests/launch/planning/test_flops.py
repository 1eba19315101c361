"""The formula's FLOPs equal those that torch counts in a real step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.config.schema import ComputeConfig, RunConfig
from albef_ds.data import mock
from albef_ds.data.batch import ImageTextBatch
from albef_ds.launch.planning.flops import step_flops
from albef_ds.launch.planning.recorder import recorded
from tests.engine.zero.common import make, tiny_config, with_engine

RELEASED = {"share_cross_kv": False, "mlm_masked_only": False, "itm_cls_only": False, "one_fusion_call": False}
RECOMPUTED = {"checkpoint_visual": True, "checkpoint_text": True, "checkpoint_multimodal": True}


def _config(compute: dict[str, Any], **sections: dict[str, Any]) -> RunConfig:
    """A tiny run of the local engine with plain attention, because the fused backward pass computes the scores again."""
    config = tiny_config(compute=ComputeConfig(**{"attention": "plain", **compute}))
    config = with_engine(config, kind="local", device="cpu", momentum_storage="dense")
    task = replace(config.pretraining(), mask_unfilled_queue=False, **sections.get("task", {}))
    model = replace(
        config.model,
        vision=replace(config.model.vision, **sections.get("vision", {})),
        text=replace(config.model.text, **sections.get("text", {})),
    )
    return replace(config, task=task, model=model, train=replace(config.train, global_batch_size=3))


@pytest.mark.parametrize(
    "config",
    [
        _config({}),
        _config(RELEASED),
        _config(RECOMPUTED),
        _config({}, task={"alpha": 0.0}),
        _config({}, vision={"stem": "convolution"}),
        _config({}, text={"frozen": True}),
        _config({}, vision={"frozen": True}),
        _config(RELEASED, text={"fusion_frozen": True}),
        _config({}, text={"fusion_frozen": True, "frozen": True}),
        _config({}, text={"fusion_frozen": True}, vision={"frozen": True}),
        _config({}, text={"fusion_frozen": True, "frozen": True}, vision={"frozen": True}),
        _config({"wide_losses": "sliced"}),
    ],
    ids=[
        *("exact savings", "as released", "recomputed", "no pseudo-targets", "convolutions", "frozen text", "frozen images"),
        *("frozen fusion", "only images", "only texts", "only heads", "sliced losses"),
    ],
)
def test_flops_equal_what_torch_counts(config: RunConfig) -> None:
    _, engine = make(config)
    batch = mock.pairs(config)
    assert isinstance(batch, ImageTextBatch)
    masked = int((batch.mlm_labels[0] >= 0).sum())
    with recorded() as counts:
        engine.train_step([batch], {"alpha": config.pretraining().alpha}, 1e-3)
    planned = sum(part.model + part.recompute for part in step_flops(config, masked=masked))
    assert counts.flops == planned


def test_the_base_model_needs_247_gflop_per_image() -> None:
    config = pretrain_4m()
    total = sum(part.model for part in step_flops(config)) / config.train.micro_batch_size
    assert total / 1e9 == pytest.approx(247.2, abs=0.1)


def test_the_cpus_fused_attention_is_counted_like_the_plain_one() -> None:
    found = []
    for attention in ("plain", "sdpa"):
        _, engine = make(_config({"attention": attention}))
        batch = mock.pairs(engine_config := _config({"attention": attention}))
        assert isinstance(batch, ImageTextBatch) and engine_config.compute.attention == attention
        with torch.no_grad(), recorded() as counts:
            engine.task(batch, alpha=0.4)
        found.append(counts.flops)
    assert found[0] == found[1] > 0
