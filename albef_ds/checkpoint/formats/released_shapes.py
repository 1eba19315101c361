"""Derives the kind and the settings of a released file from the names and shapes of its tensors.

Shapes do not show the number of attention heads (64 wide in the released models; assumed for known widths, otherwise a required
override) and settings without weights (dropout, temperature bounds), which keep their defaults.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, equal
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.config.data import RELEASED_LIMITS, DataConfig
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import ModelConfig, RunConfig, TextConfig, VisionConfig
from albef_ds.config.tasks import (
    ClassificationConfig,
    PretrainConfig,
    RetrievalConfig,
    TaskConfig,
    TextAssignmentConfig,
    VqaConfig,
)

HEADS = {768: 12, 1024: 16}
"""Width -> number of attention heads, for widths at which every ViT and BERT has the same number."""

_LAYER = re.compile(r"text_encoder\.encoder\.layer\.(\d+)\.(crossattention\.)?")
_BLOCK = re.compile(r"visual_encoder\.blocks\.(\d+)\.")
_DECODER_LAYER = re.compile(r"text_decoder\.bert\.encoder\.layer\.(\d+)\.")


def released_config(
    tensors: Mapping[str, LazyTensor], overrides: Sequence[str], source: str, like: ModelConfig | None = None
) -> RunConfig:
    """The configuration of a released file.

    Args:
        tensors: by their plain names (`names.without_bert`).
        overrides: `section.field=value` for settings that shapes do not show.
        source: for messages.
        like: a model that gives the numbers of heads for widths outside `HEADS`.

    Raises:
        UserError: it is not an ALBEF model, a number of heads is unknown, or an override is invalid.
    """
    doubled = _doubled(tensors)
    model = _model(tensors, doubled, source)
    if like is not None:
        shown = [f"model.{part}.num_heads={getattr(like, part).num_heads}" for part in ("vision", "text")]
        unknown = [getattr(model, part).width not in HEADS for part in ("vision", "text")]
        overrides = [*(line for line, needed in zip(shown, unknown, strict=True) if needed), *overrides]
    known = {override.partition("=")[0] for override in overrides}
    for path, width in (("model.vision", model.vision.width), ("model.text", model.text.width)):
        if width not in HEADS and f"{path}.num_heads" not in known:
            raise ConfigError(
                f"{source} has {path}.width {width}, whose number of attention heads shapes do not show: "
                f"give {path}.num_heads=N as it was trained"
            )
    task = _task(tensors, doubled)
    limits = RELEASED_LIMITS[task.kind]
    max_tokens = min(limits.max_tokens, model.text.max_positions)
    data = DataConfig(**limits._replace(max_tokens=max_tokens)._asdict())
    config = replace(RunConfig(), model=model, task=task, data=data)
    return parse_overrides(config, overrides)


def is_released(names: Mapping[str, object]) -> bool:
    """True if the (plain) names are those of a released ALBEF file of any kind."""
    needed = ("visual_encoder.cls_token", "text_encoder.embeddings.word_embeddings.weight")
    return all(name in names for name in needed) and any(".crossattention." in name for name in names)


def _count(pattern: re.Pattern[str], names: Mapping[str, object]) -> int:
    return 1 + max((int(match[1]) for name in names if (match := pattern.match(name))), default=-1)


def _layers(names: Mapping[str, object]) -> tuple[int, int]:
    """Numbers of text layers (without cross-attention) and multimodal layers."""
    crossing = {int(match[1]) for name in names if (match := _LAYER.match(name)) and match[2]}
    return min(crossing), _count(_LAYER, names) - min(crossing)


def _doubled(tensors: Mapping[str, LazyTensor]) -> bool:
    """True if multimodal layers come in pairs that share keys and values (NLVR2), which only their content shows."""
    first, count = _layers(tensors)
    if count % 2 or not any(name.startswith(("cls_head", "ta_head")) for name in tensors):
        return False
    names = [
        (f"text_encoder.encoder.layer.{first + i}.{part}", f"text_encoder.encoder.layer.{first + i + 1}.{part}")
        for i in range(0, count, 2)
        for part in ("crossattention.self.key.weight", "crossattention.self.value.weight")
    ]
    return all(equal(tensors[left].read(), tensors[right].read()) for left, right in names)


def _model(tensors: Mapping[str, LazyTensor], doubled: bool, source: str) -> ModelConfig:
    try:
        text_layers, fusion_layers = _layers(tensors)
        patches = tensors["visual_encoder.patch_embed.proj.weight"].shape
        tokens, width = tensors["visual_encoder.pos_embed"].shape[1:]
        vocab_size, text_width = tensors["text_encoder.embeddings.word_embeddings.weight"].shape
        hidden = tensors["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0]
        intermediate = tensors[f"text_encoder.encoder.layer.{text_layers}.intermediate.dense.weight"].shape[0]
        positions = tensors["text_encoder.embeddings.position_embeddings.weight"].shape[0]
        side, patch = math.isqrt(tokens - 1), patches[-1]
        embed = tensors["vision_proj.weight"].shape[0] if "vision_proj.weight" in tensors else ModelConfig().embed_dim
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{source} is a damaged ALBEF file ({error} is missing or of an odd shape): fetch it again") from None
    if side * side != tokens - 1:
        raise WeightsError(f"{source} has a position table of {tokens - 1} patches, which make no square: fetch it again")
    return ModelConfig(
        vision=VisionConfig(
            image_size=side * patch,
            patch_size=patch,
            width=width,
            depth=_count(_BLOCK, tensors),
            num_heads=HEADS.get(width, 1),
            mlp_ratio=hidden / width,
        ),
        text=TextConfig(
            vocab_size=vocab_size,
            width=text_width,
            num_layers=text_layers,
            num_fusion_layers=fusion_layers // 2 if doubled else fusion_layers,
            num_heads=HEADS.get(text_width, 1),
            intermediate_width=intermediate,
            max_positions=positions,
        ),
        embed_dim=embed,
    )


def _task(tensors: Mapping[str, LazyTensor], doubled: bool) -> TaskConfig:
    queue = tensors["image_queue"].shape[1] if "image_queue" in tensors else 0
    if any(name.startswith("text_decoder.") for name in tensors):
        return VqaConfig(decoder_layers=_count(_DECODER_LAYER, tensors))
    if "cls_head.2.weight" in tensors:
        return ClassificationConfig(num_classes=tensors["cls_head.2.weight"].shape[0], num_images=2 if doubled else 1)
    if "ta_head.weight" in tensors:
        return TextAssignmentConfig()
    if any(name.startswith("text_encoder.cls.") for name in tensors):
        return PretrainConfig(queue_size=queue)
    return RetrievalConfig(queue_size=queue)
