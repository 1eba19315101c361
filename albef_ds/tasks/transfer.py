"""What a task makes of another task's weights: functions of state dicts under our parameter names, which compute nothing.

A state dict maps the names of `task.named_parameters()` (`base.albef. ...`, each tied tensor once) to tensors, or to anything
else with a `shape`. Layers that come in pairs are the concern of `checkpoint/initial/between_tasks.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from albef_ds.config.schema import VqaConfig
from albef_ds.config.tasks import BaseTaskConfig

FUSION_LAYER = re.compile(r"base\.albef\.multimodal_encoder\.layers\.(\d+)\.(.*)")
KEY_VALUE = "cross_attention.key_value."
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


def unchanged(state: dict[str, T], settings: BaseTaskConfig) -> dict[str, T]:
    """The other task's tensors as they are."""
    return state


def image_projection(state: dict[str, T], settings: BaseTaskConfig) -> dict[str, T]:
    """For text assignment: the model's image projection pairs the images."""
    return {name.replace("base.albef.vision_proj.", "vision_proj."): tensor for name, tensor in state.items()}


def answer_decoder(state: dict[str, T], settings: VqaConfig) -> dict[str, T]:
    """For VQA: an answer decoder is made beside the other tensors."""
    return state | vqa_decoder_from_multimodal(state, settings.decoder_layers)


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
        elif (match := FUSION_LAYER.fullmatch(name)) and int(match[1]) < num_layers:
            if match[2].startswith(KEY_VALUE) and not _is_square(state, match[1]):
                continue
            decoder[f"{_DECODER}encoder.layers.{match[1]}.{match[2]}"] = tensor
    return decoder


def _is_square(state: Mapping[str, T], layer: str) -> bool:
    rows, columns = state[f"base.albef.multimodal_encoder.layers.{layer}.{KEY_VALUE}key.weight"].shape
    return rows == columns
