"""The tiny model of the tests: one set of sizes, from which each test departs where it needs other ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from albef_ds.config.schema import ModelConfig, TextConfig, VisionConfig

VOCAB, IMAGE_SIZE, EMBED_DIM = 40, 16, 8
AS_IT_IS: Mapping[str, Any] = MappingProxyType({})

MODEL = ModelConfig(
    vision=VisionConfig(image_size=IMAGE_SIZE, patch_size=8, width=24, depth=2, num_heads=2),
    text=TextConfig(
        vocab_size=VOCAB,
        width=16,
        num_layers=2,
        num_fusion_layers=2,
        num_heads=2,
        intermediate_width=32,
        max_positions=32,
        dropout=0.0,
    ),
    embed_dim=EMBED_DIM,
)
"""Two layers of everything, without dropout; widths that tell image (24) from text (16)."""


def tiny_model(
    vision: Mapping[str, Any] = AS_IT_IS, text: Mapping[str, Any] = AS_IT_IS, embed_dim: int = EMBED_DIM
) -> ModelConfig:
    """`MODEL` with other sizes of its parts."""
    return ModelConfig(vision=replace(MODEL.vision, **vision), text=replace(MODEL.text, **text), embed_dim=embed_dim)
