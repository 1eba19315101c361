"""Loads published encoders: a ViT or DeiT file for images, a BERT for texts, the multimodal layers and the MLM head.

Every tensor of the model must be in the file, and every tensor of the file must have a place in the model, except for the
short lists below; exceptions are reported. `load.py` loads whole ALBEF models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from albef_ds.checkpoint.fill import LoadReport, Rules, fill
from albef_ds.checkpoint.foreign_names import (
    BERT_ANCHOR,
    BERT_HEADS,
    VIT_ANCHOR,
    VIT_HEADS,
    check_heads,
    framework,
    without_prefix,
)
from albef_ds.checkpoint.formats.released import is_released_file
from albef_ds.checkpoint.initial.between_tasks import resize_position_embedding
from albef_ds.checkpoint.names import Place, bert_name, place_of, timm_name, under_our_names
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.checkpoint.tensor_files.opening import open_tensors
from albef_ds.common.errors import WeightsError
from albef_ds.models.albef import ALBEF
from albef_ds.models.heads import MLMHead
from albef_ds.models.parameters import WHOLE, ParameterAccess

VISUAL_LEFT_OVER = re.compile(r"head\..*|head_dist\..*|dist_token")
"""A classifier and DeiT's distillation token are unused."""
BERT_LEFT_OVER = re.compile(r"cls\..*|pooler\..*|embeddings\.position_ids")
"""BERT's heads (`load_mlm_head` uses one of them) and a buffer of old files that counts from 0."""

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_POSITIONS = "visual_encoder.embed.pos_embed"
_WORDS = "base.albef.text_encoder.embeddings.word.weight"


def load_visual_encoder(albef: ALBEF, path: Path, access: ParameterAccess = WHOLE) -> LoadReport:
    """Fills the visual encoder from a file with timm's names (timm, DeiT).

    The position table is resized (bicubic, as in the released code) if the file was trained at another image size.

    Args:
        albef: the model, changed in place.
        path: a .safetensors, .pth, .pt or .bin file with a bare state dict or {"model": state dict}, or a folder with one.
        access: writes the model's parameters.

    Raises:
        WeightsError: the file cannot be read, or a tensor is missing, left over or of another shape.
    """
    places = {name: _at(timm_name(name)) for name, _ in albef.named_parameters()}
    check_heads(path, "vision", albef.config.vision, VIT_HEADS)
    found = under_our_names(_stored(path, VIT_ANCHOR, "a ViT or DeiT with timm's names"), places, str(path), _plain)
    remarks = []
    if _POSITIONS in found.tensors:
        table = found.tensors[_POSITIONS]
        if "dist_token" in found.left_over and len(table.shape) == 3:  # [CLS], distillation token, patches
            shape = (table.shape[0], table.shape[1] - 1, table.shape[2])
            table = table.then(lambda whole: torch.cat([whole[:, :1], whole[:, 2:]], dim=1), shape)
        resized = found.tensors[_POSITIONS] = resize_position_embedding(table, albef.config.vision.num_tokens)
        if resized is not table:
            old, new = (math.isqrt(of.shape[1] - 1) for of in (table, resized))
            remarks.append(f"position table resampled from {old} x {old} to {new} x {new} patches")
    rules = Rules("model.vision must be of the file's shape, and model.vision.stem=patch", may_remain=VISUAL_LEFT_OVER.fullmatch)
    return fill(_parameters(albef, places), found, str(path), rules, access, remarks)


def load_text_encoder(albef: ALBEF, path: Path, access: ParameterAccess = WHOLE) -> LoadReport:
    """Fills text and multimodal encoder from one BERT: multimodal layer i from BERT layer `num_layers` + i.

    Cross-attention keeps its random weights, as do multimodal layers that a shallower BERT lacks. Names in the file are those
    of transformers' `BertModel`, with or without the prefix `bert.`, and with `gamma` and `beta` for norms in old files.
    Arguments and errors are those of `load_visual_encoder`.
    """
    num_layers, num_fusion_layers = albef.config.text.num_layers, albef.config.text.num_fusion_layers
    places = {name: _at(bert_name(name, num_layers)) for name, _ in albef.named_parameters()}
    check_heads(path, "text", albef.config.text, BERT_HEADS)
    stored = _stored(path, BERT_ANCHOR, "a BERT with transformers' names")
    found = under_our_names(stored, places, str(path), _plain_bert)
    depth = 1 + max((int(match[1]) for name in stored if (match := _LAYER.match(_plain_bert(name)))), default=-1)
    remarks = []
    random = r"\d+\.cross_attention"  # BERT has none
    if num_layers <= depth < num_layers + num_fusion_layers:
        filled = f"only the first {depth - num_layers} of {num_fusion_layers}" if depth > num_layers else "none"
        remarks.append(f"the file has {depth} layers: {num_layers} for the text encoder, {filled} of the multimodal layers")
        random = "|".join([random, *map(str, range(depth - num_layers, num_fusion_layers))])
    rules = Rules(
        f"the file has {depth} layers, model.text (num_layers + num_fusion_layers, width, ...) must fit it",
        may_lack=re.compile(rf"multimodal_encoder\.layers\.({random})\..*").fullmatch,
        may_remain=BERT_LEFT_OVER.fullmatch,
    )
    return fill(_parameters(albef, places), found, str(path), rules, access, remarks)


def load_mlm_head(head: MLMHead, path: Path, access: ParameterAccess = WHOLE) -> LoadReport:
    """Fills the MLM head from a BERT's `cls.predictions.*`; without that head in the file it stays random, as reported.

    The vocabulary matrix belongs to the word embeddings (`load_text_encoder`) and is not read. Raises WeightsError if the file
    cannot be read, or its head is incomplete, of another shape, or not tied to the word embeddings.
    """
    places = {name: place_of(f"base.mlm_head.{name}", "pretrain", 0) for name, _ in head.named_parameters()}
    places[_WORDS] = place_of(_WORDS, "pretrain", 0)  # so that an untied matrix is refused
    stored = _stored(path, BERT_ANCHOR, "a BERT with transformers' names")
    found = under_our_names(stored, places, str(path), lambda name: f"text_encoder.{_plain_bert(name)}")
    found.tensors.pop(_WORDS, None)
    absent = not any(_plain_bert(name).startswith("cls.predictions.") for name in stored)
    rules = Rules("give a BERT with its whole head", may_lack=lambda name: absent, may_remain=lambda name: True)
    report = fill(_parameters(head, places), found, str(path), rules, access)
    return replace(report, left_over_allowed=())  # `load_text_encoder` reports unused tensors


def _stored(path: Path, anchor: str, wanted: str) -> dict[str, LazyTensor]:
    """Returns the tensors without a wrapper's prefix. Raises WeightsError for a model of another framework."""
    stored = open_tensors(path)
    if is_released_file(stored):
        raise WeightsError(f"{path} is a whole ALBEF model: give it as init.checkpoint")
    if other := framework(stored.tensors):
        raise WeightsError(f"{path} holds {other}, not {wanted}: give such a file, or rename the tensors")
    return without_prefix(stored, anchor, str(path))[0].tensors


def _parameters(module: nn.Module, places: Mapping[str, Place | None]) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in module.named_parameters() if places[name])


def _at(name: str | None) -> Place | None:
    return None if name is None else Place(name)


def _plain(name: str) -> str:
    """`name` without the prefixes of DistributedDataParallel and torch.compile."""
    return re.sub(r"^(_orig_mod\.)?(module\.)?(_orig_mod\.)?", "", name)


def _plain_bert(name: str) -> str:
    """`name` as in today's `BertModel` of transformers."""
    new = {"gamma": "weight", "beta": "bias"}
    return re.sub(r"(?<=LayerNorm\.)(gamma|beta)$", lambda old: new[old[1]], _plain(name).removeprefix("bert."))
