"""The full model: initial weights, features, frozen text encoder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from albef_ds.config.schema import ComputeConfig
from albef_ds.models.albef import ALBEF
from albef_ds.models.heads import MLMHead
from albef_ds.models.random_weights import initialise
from tests.tasks.tiny import EMBED_DIM, random_batch, tiny_model


def test_features_have_unit_length_and_at_least_single_precision() -> None:
    batch = random_batch(4)
    for dtype, feature_dtype in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        model = ALBEF(tiny_model(), ComputeConfig()).to(dtype)
        image = model.project_image(model.encode_image(batch.images))
        text = model.project_text(model.encode_text(batch.token_ids, batch.token_mask), batch.token_mask)
        for feature in (image, text):
            assert feature.shape == (4, EMBED_DIM) and feature.dtype == feature_dtype
            torch.testing.assert_close(feature.norm(dim=1), torch.ones(4, dtype=feature_dtype))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_changes_no_text_feature(pooling: str) -> None:
    model = ALBEF(tiny_model(pooling=pooling), ComputeConfig()).double().eval()
    short = random_batch(4)
    long = short.padded_to(short.token_ids.shape[1] + 3)
    assert int(long.token_mask.sum()) == int(short.token_mask.sum()) and int((long.mlm_labels >= 0).sum()) > 0
    features = [
        model.project_text(model.encode_text(batch.token_ids, batch.token_mask), batch.token_mask) for batch in (short, long)
    ]
    torch.testing.assert_close(features[0], features[1], rtol=0, atol=1e-14)


def test_initial_weights_are_berts() -> None:
    model = ALBEF(tiny_model(vocab_size=2000, width=64, intermediate_width=128), ComputeConfig())
    head = MLMHead(model.config.text, model.text_encoder.embeddings.word)
    initialise(nn.ModuleList([model, head]), seed=0)
    word = model.text_encoder.embeddings.word.weight
    assert head.decoder.weight is word
    assert bool((word[0] == 0).all()) and abs(float(word[1:].detach().std()) - 0.02) < 0.001
    for part in (model.text_encoder, model.multimodal_encoder, model.vision_proj, head):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                assert abs(float(module.weight.detach().std()) - 0.02) < 0.004 and not bool(module.bias.any())
            elif isinstance(module, nn.LayerNorm):
                assert bool((module.weight == 1).all()) and not bool(module.bias.any())


def test_wider_initial_weights_are_the_same_ones_scaled() -> None:
    usual, wider = (ALBEF(tiny_model(), ComputeConfig()) for _ in range(2))
    initialise(usual, seed=0)
    initialise(wider, seed=0, std=0.08)
    scaled = {f"{name}.weight" for name, module in usual.named_modules() if isinstance(module, nn.Linear)}
    scaled.add("visual_encoder.embed.pos_embed")
    pairs = zip(usual.named_parameters(), wider.parameters(), strict=True)
    for (name, parameter), other in pairs:
        torch.testing.assert_close(other, parameter * 4 if name in scaled else parameter, rtol=0, atol=0)
    assert len(scaled) > 10 and float(usual.visual_encoder.embed.pos_embed.detach().abs().max()) > 0


def test_a_frozen_text_encoder_neither_learns_nor_drops() -> None:
    model = ALBEF(tiny_model(dropout=0.5, frozen=True), ComputeConfig()).train()
    batch = random_batch(3)
    first, second = (model.encode_text(batch.token_ids, batch.token_mask) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    assert model.multimodal_encoder.training and model.visual_encoder.training
    assert all(p.requires_grad for p in model.multimodal_encoder.parameters())
