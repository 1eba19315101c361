"""Weights of one task's model as another task's: pure functions over state dicts under our parameter names.

A state dict maps the names of `task.named_parameters()` (`base.albef. ...`, each tied tensor once) to tensors, or to
anything else with a `shape`: only `resize_position_embedding` computes. Reading files and filling a task is not done here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor

from albef_ds.common.errors import WeightsError
from albef_ds.config.schema import ClassificationConfig, TaskConfig, TextAssignmentConfig, VqaConfig

POSITION_EMBEDDING = "base.albef.visual_encoder.embed.pos_embed"

_FUSION = re.compile(r"base\.albef\.multimodal_encoder\.layers\.(\d+)\.(.*)")
_KEY_VALUE = "cross_attention.key_value."
_DECODER = "base.decoder."
_EMBEDDINGS = "base.albef.text_encoder.embeddings."
_MLM_HEAD = "base.mlm_head."


class Shaped(Protocol):
    """A tensor, or what stands for one."""

    @property
    def shape(self) -> Sequence[int]:
        """Its size in each dimension."""
        ...


T = TypeVar("T", bound=Shaped)


def resize_position_embedding(table: Tensor, num_tokens: int) -> Tensor:
    """A position table (1, N, D), class token first, for an image of `num_tokens` tokens; bicubic, in fp32 or better.

    Raises:
        WeightsError: patches of either that form no square.
    """
    old, new = table.shape[1] - 1, num_tokens - 1
    if old == new:
        return table
    for count in (old, new):
        if math.isqrt(count) ** 2 != count:
            raise WeightsError(f"a position table of {count} patches is no square grid: give one of square images")
    side = math.isqrt(new)
    resized: Tensor = resample_abs_pos_embed(table, [side, side], num_prefix_tokens=1)
    return resized


def vqa_decoder_from_multimodal(state: Mapping[str, T], num_layers: int) -> dict[str, T]:
    """An answer decoder's tensors from the multimodal layers, the word embeddings and the MLM head (released code).

    Args:
        state: of a pretraining task.
        num_layers: layers of the decoder; it takes the first ones, and no more than there are.

    Returns:
        Names that begin with `base.decoder.`. Cross-attention keys and values are missing where images and texts differ in
        width: they would not fit.
    """
    decoder: dict[str, T] = {}
    for name, tensor in state.items():
        if name.startswith(_EMBEDDINGS):
            decoder[_DECODER + "embeddings." + name.removeprefix(_EMBEDDINGS)] = tensor
        elif name.startswith(_MLM_HEAD):
            decoder[_DECODER + "mlm_head." + name.removeprefix(_MLM_HEAD)] = tensor
        elif (match := _FUSION.fullmatch(name)) and int(match[1]) < num_layers:
            if match[2].startswith(_KEY_VALUE) and not _is_square(state, match[1]):
                continue
            decoder[f"{_DECODER}encoder.layers.{match[1]}.{match[2]}"] = tensor
    return decoder


def _is_square(state: Mapping[str, T], layer: str) -> bool:
    rows, columns = state[f"base.albef.multimodal_encoder.layers.{layer}.{_KEY_VALUE}key.weight"].shape
    return rows == columns


def nlvr_layers_from_multimodal(state: Mapping[str, T]) -> dict[str, T]:
    """`state` with each multimodal layer i as layers 2i and 2i + 1, whose keys and values are one tensor, named once."""
    doubled: dict[str, T] = {}
    for name, tensor in state.items():
        match = _FUSION.fullmatch(name)
        if match is None:
            doubled[name] = tensor
            continue
        first = 2 * int(match[1])
        for number in (first, first + 1):
            if number == first or not match[2].startswith(_KEY_VALUE):
                doubled[f"base.albef.multimodal_encoder.layers.{number}.{match[2]}"] = tensor
    return doubled


def multimodal_from_nlvr_layers(state: Mapping[str, T]) -> dict[str, T]:
    """The inverse: of each pair of layers the first, which met the first image; training may have moved the two apart."""
    single: dict[str, T] = {}
    for name, tensor in state.items():
        match = _FUSION.fullmatch(name)
        if match is None:
            single[name] = tensor
        elif int(match[1]) % 2 == 0:
            single[f"base.albef.multimodal_encoder.layers.{int(match[1]) // 2}.{match[2]}"] = tensor
    return single


def has_paired_layers(config: TaskConfig) -> bool:
    """Whether the task's multimodal layers come in pairs, one per image."""
    return isinstance(config, TextAssignmentConfig) or (isinstance(config, ClassificationConfig) and config.num_images == 2)


def transplant(state: Mapping[str, T], source: TaskConfig, target: TaskConfig) -> dict[str, T]:
    """`state` of a `source` task under the names of a `target` task.

    Layers are doubled or halved, a decoder is made of the multimodal layers, and text assignment's projection is the
    model's. Names that the target does not have stay in; those it alone has (heads) are missing.
    """
    moved = dict(state)
    if has_paired_layers(source) and not has_paired_layers(target):
        moved = multimodal_from_nlvr_layers(moved)
    if has_paired_layers(target) and not has_paired_layers(source):
        moved = nlvr_layers_from_multimodal(moved)
    if isinstance(target, VqaConfig) and not isinstance(source, VqaConfig):
        moved |= vqa_decoder_from_multimodal(moved, target.decoder_layers)
    if isinstance(target, TextAssignmentConfig) and not isinstance(source, TextAssignmentConfig):
        for name in ("weight", "bias"):
            if f"base.albef.vision_proj.{name}" in moved:
                moved[f"vision_proj.{name}"] = moved.pop(f"base.albef.vision_proj.{name}")
    return moved
