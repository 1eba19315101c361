"""Converts a model's tensors to another task or image size: functions of state dicts under our names.

A state dict maps the names of `task.named_parameters()` (`base.albef. ...`, each tied tensor once) to tensors, or to anything
else with a `shape`. Nothing is computed: `resize_position_embedding` returns a tensor that is resized when it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.common.errors import WeightsError
from albef_ds.config.tasks import BaseTaskConfig
from albef_ds.tasks.registry import kind_of
from albef_ds.tasks.transfer import FUSION_LAYER, KEY_VALUE, T

POSITION_EMBEDDING = "base.albef.visual_encoder.embed.pos_embed"


def resize_position_embedding(table: LazyTensor, num_tokens: int, dtype: torch.dtype | None = None) -> LazyTensor:
    """A position table (1, N, D), class token first, resized to `num_tokens` as by the released code.

    Bicubic interpolation in fp32 without antialiasing, by the released code's expression, so equal to it to the bit. Both of its
    uses are of this form: a DeiT file in pretraining and a pretrained model in fine-tuning. timm antialiases by default, with
    another cubic kernel, and so differs by 4 to 8% from 16 x 16 to 24 x 24 patches.

    Args:
        table: returned unchanged if it has another number of dimensions or already `num_tokens` tokens.
        num_tokens: of the class token and the patches.
        dtype: of the result; None: the table's. A ViT file's table is rounded to the file's precision again; that of a whole
            model is not rounded.

    Raises:
        WeightsError: the old or new patches do not form a square.
    """
    if len(table.shape) != 3 or table.shape[1] == num_tokens:
        return table
    for count in (table.shape[1] - 1, num_tokens - 1):
        if count < 1 or math.isqrt(count) ** 2 != count:
            raise WeightsError(f"a position table of {count} patches is not a square grid: give one of square images")
    old, new = math.isqrt(table.shape[1] - 1), math.isqrt(num_tokens - 1)

    def resized(whole: Tensor) -> Tensor:
        grid = whole[:, 1:].float().reshape(-1, old, old, whole.shape[2]).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
        return torch.cat([whole[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(whole.dtype)], dim=1)

    return table.to(dtype or table.dtype).then(resized, (table.shape[0], num_tokens, table.shape[2]))


def nlvr_layers_from_multimodal(state: Mapping[str, T]) -> dict[str, T]:
    """`state` with each multimodal layer i as layers 2i and 2i + 1, which share one tensor of keys and values."""
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
    """The inverse: keeps the first layer of each pair, that of the first image; training may have made the two differ."""
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

    Layers are doubled or halved; the target's record (`TaskKind.transfer`) converts the rest. Names that the target lacks stay;
    those that only the target has (heads) are missing.
    """
    moved = dict(state)
    if source.paired_layers and not target.paired_layers:
        moved = multimodal_from_nlvr_layers(moved)
    if target.paired_layers and not source.paired_layers:
        moved = nlvr_layers_from_multimodal(moved)
    return moved if type(target) is type(source) else kind_of(target).transfer(moved, target)
