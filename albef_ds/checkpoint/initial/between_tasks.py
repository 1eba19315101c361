"""Weights of one task's model as another task's: pure functions over state dicts under our parameter names.

A state dict maps the names of `task.named_parameters()` (`base.albef. ...`, each tied tensor once) to tensors, or to
anything else with a `shape`: only `resize_position_embedding` computes. Reading files and filling a task is not done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from torch import Tensor

from albef_ds.common.errors import WeightsError
from albef_ds.config.tasks import BaseTaskConfig
from albef_ds.tasks.registry import kind_of
from albef_ds.tasks.transfer import FUSION_LAYER, KEY_VALUE, T

POSITION_EMBEDDING = "base.albef.visual_encoder.embed.pos_embed"


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


def nlvr_layers_from_multimodal(state: Mapping[str, T]) -> dict[str, T]:
    """`state` with each multimodal layer i as layers 2i and 2i + 1, whose keys and values are one tensor, named once."""
    doubled: dict[str, T] = {}
    for name, tensor in state.items():
        match = FUSION_LAYER.fullmatch(name)
        if match is None:
            doubled[name] = tensor
            continue
        first = 2 * int(match[1])
        for number in (first, first + 1):
            if number == first or not match[2].startswith(KEY_VALUE):
                doubled[f"base.albef.multimodal_encoder.layers.{number}.{match[2]}"] = tensor
    return doubled


def multimodal_from_nlvr_layers(state: Mapping[str, T]) -> dict[str, T]:
    """The inverse: of each pair of layers the first, which met the first image; training may have moved the two apart."""
    single: dict[str, T] = {}
    for name, tensor in state.items():
        match = FUSION_LAYER.fullmatch(name)
        if match is None:
            single[name] = tensor
        elif int(match[1]) % 2 == 0:
            single[f"base.albef.multimodal_encoder.layers.{int(match[1]) // 2}.{match[2]}"] = tensor
    return single


def transplant(state: Mapping[str, T], source: BaseTaskConfig, target: BaseTaskConfig) -> dict[str, T]:
    """`state` of a `source` task under the names of a `target` task.

    Layers are doubled or halved; what else another task's weights become is said by the target's record (`TaskKind.transfer`).
    Names that the target does not have stay in; those it alone has (heads) are missing.
    """
    moved = dict(state)
    if source.paired_layers and not target.paired_layers:
        moved = multimodal_from_nlvr_layers(moved)
    if target.paired_layers and not source.paired_layers:
        moved = nlvr_layers_from_multimodal(moved)
    return moved if type(target) is type(source) else kind_of(target).transfer(moved, target)
