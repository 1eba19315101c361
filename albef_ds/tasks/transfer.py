"""Maps another task's weights to a task's initial weights, by renaming and copying entries of state dicts.

A state dict maps the names of `task.named_parameters()` (`base.albef. ...`, each tied tensor once) to tensors, or to other
objects with a `shape`. `checkpoint/initial/between_tasks.py` handles layers that come in pairs.
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
    """A tensor, or another object with a shape."""

    @property
    def shape(self) -> Sequence[int]:
        """The size of each dimension."""
        ...


T = TypeVar("T", bound=Shaped)


def unchanged(state: dict[str, T], settings: BaseTaskConfig) -> dict[str, T]:
    """Returns the other task's tensors unchanged."""
    return state


def image_projection(state: dict[str, T], settings: BaseTaskConfig) -> dict[str, T]:
    """Returns the tensors for text assignment, which draws pairs of images by the model's image projection."""
    return {name.replace("base.albef.vision_proj.", "vision_proj."): tensor for name, tensor in state.items()}


def answer_decoder(state: dict[str, T], settings: VqaConfig) -> dict[str, T]:
    """Returns the tensors for VQA: the other task's and those of an answer decoder."""
    return state | vqa_decoder_from_multimodal(state, settings.decoder_layers)


def vqa_decoder_from_multimodal(state: Mapping[str, T], num_layers: int) -> dict[str, T]:
    """Makes an answer decoder's tensors from the multimodal layers, the word embeddings and the MLM head (released code).

    Args:
        state: state dict of a pretraining task.
        num_layers: number of layers of the decoder; it gets the first ones that exist.

    Returns:
        Tensors by names that start with `base.decoder.`, without cross-attention keys and values if images and texts differ in
        width.
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
