"""Initial weights for the encoders: a ViT or DeiT file for the visual one, a BERT for the text and the multimodal one.

Nothing is loaded in part unnoticed: every tensor of the model must be in the file and every tensor of the file must have
a place in the model, outside the short lists below; what fell under them is reported. Everything is checked before the
first weight changes. Not responsible for whole ALBEF models (checkpoints, released files) or for choosing the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed  # type: ignore[attr-defined]
from timm.models import load_state_dict
from torch import Tensor, nn

from albef_ds.checkpoint.initial.names import bert_name, released_name, timm_name
from albef_ds.checkpoint.tensor_files.read_errors import why_unreadable
from albef_ds.common.errors import WeightsError
from albef_ds.models.albef import ALBEF
from albef_ds.models.heads import MLMHead
from albef_ds.models.parameters import WHOLE, ParameterAccess

FOLDER_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of weights holds, the first that is there counts."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

VISUAL_LEFT_OVER = re.compile(r"head\..*|head_dist\..*|dist_token")
"""A classifier and DeiT's distillation token have no use here."""
BERT_LEFT_OVER = re.compile(r"cls\..*|pooler\..*|embeddings\.position_ids")
"""BERT's heads (`load_mlm_head` takes one of them) and a buffer of old files that counts from 0."""
BERT_MISSING = re.compile(r"multimodal_encoder\.layers\.\d+\.cross_attention\..*")
"""BERT has no cross-attention. Beside these, whole multimodal layers may be missing: `load_text_encoder`."""

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_POSITIONS = "pos_embed"


@dataclass(frozen=True)
class LoadReport:
    """What a file gave to a part of the model."""

    tensors: int
    """Tensors taken."""
    parameters: int
    """Numbers in them."""
    share_of_parameters: float
    """`parameters` over those of the part of the model that was to be filled."""
    missing_allowed: tuple[str, ...] = ()
    """Tensors of the model that keep their random weights."""
    left_over_allowed: tuple[str, ...] = ()
    """Tensors of the file without use."""
    remarks: tuple[str, ...] = ()
    """What else a reader of the log should know."""

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors, {self.parameters:,} parameters ({self.share_of_parameters:.1%})", *self.remarks]
        if self.missing_allowed:
            parts.append(f"{len(self.missing_allowed)} not in the file keep random weights: {_summary(self.missing_allowed)}")
        if self.left_over_allowed:
            parts.append(f"{len(self.left_over_allowed)} of the file unused: {_summary(self.left_over_allowed)}")
        return "; ".join(parts)


def load_visual_encoder(albef: ALBEF, path: Path, access: ParameterAccess = WHOLE) -> LoadReport:
    """Fill the visual encoder from a file with timm's names (timm, DeiT).

    The position table is resampled (bicubic) where the file was trained at another image size.

    Args:
        albef: the model, changed in place.
        path: a .safetensors, .pth, .pt or .bin file with a bare state dict or {"model": state dict}, or a folder with one.
        access: how the model's parameters are written.

    Raises:
        WeightsError: the file cannot be read, or a tensor is missing, left over or of another shape.
    """
    weights = read_weights(path)
    targets = _named(albef, "visual_encoder.", timm_name)
    remarks: list[str] = []
    if _POSITIONS in weights and _POSITIONS in targets:
        weights[_POSITIONS] = _resample(weights[_POSITIONS], "dist_token" in weights, albef, remarks)
    fix = "model.vision must be of the file's shape, and model.vision.stem=patch"
    return _fill(targets, weights, path, fix, lambda name: False, VISUAL_LEFT_OVER, remarks, access)


def load_text_encoder(albef: ALBEF, path: Path, access: ParameterAccess = WHOLE) -> LoadReport:
    """Fill text and multimodal encoder from one BERT: multimodal layer i from BERT layer `num_layers` + i.

    Cross-attention keeps its random weights, and so do multimodal layers that a shallower BERT does not have.

    Args:
        albef: the model, changed in place.
        path: as in `load_visual_encoder`; names as in transformers' `BertModel`, with or without the prefix `bert.`, and
            with `gamma`, `beta` for the norms as old files have it.

    Raises:
        WeightsError: as in `load_visual_encoder`.
    """
    weights = _bert_weights(path)
    num_layers, num_fusion_layers = albef.config.text.num_layers, albef.config.text.num_fusion_layers
    targets = _named(albef, "", lambda name: bert_name(name, num_layers))
    depth = 1 + max((int(match[1]) for name in weights if (match := _LAYER.match(name))), default=-1)
    remarks = []
    if num_layers <= depth < num_layers + num_fusion_layers:
        filled = f"only the first {depth - num_layers} of {num_fusion_layers}" if depth > num_layers else "none"
        remarks.append(f"the file has {depth} layers: {num_layers} for the text encoder, {filled} of the multimodal layers")

    def may_miss(name: str) -> bool:
        match = _LAYER.match(bert_name(name, num_layers) or "")
        too_deep = match is not None and num_layers <= depth <= int(match[1])
        return BERT_MISSING.fullmatch(name) is not None or too_deep

    fix = f"the file has {depth} layers, model.text (num_layers + num_fusion_layers, width, ...) must fit it"
    return _fill(targets, weights, path, fix, may_miss, BERT_LEFT_OVER, remarks, access)


def load_mlm_head(head: MLMHead, path: Path, access: ParameterAccess = WHOLE) -> LoadReport:
    """Fill the MLM head from a BERT's `cls.predictions.*`; a file without that head leaves it random and says so.

    The matrix over the vocabulary belongs to the word embeddings (`load_text_encoder`) and is not read here.

    Raises:
        WeightsError: the file cannot be read, or holds part of a head, one of another shape, or one with a matrix of its own.
    """
    weights = _bert_weights(path)
    words, matrix = weights.get("embeddings.word_embeddings.weight"), weights.get("cls.predictions.decoder.weight")
    if words is not None and matrix is not None and not torch.equal(words, matrix):
        raise WeightsError(f"{path}: cls.predictions.decoder.weight is not the word embeddings': give a BERT that ties them")
    if "cls.predictions.bias" not in weights and "cls.predictions.decoder.bias" in weights:
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    targets = _named(head, "", lambda name: released_name(f"base.mlm_head.{name}", 0).removeprefix("text_encoder."))
    targets = {name: target for name, target in targets.items() if name != "cls.predictions.decoder.weight"}
    absent = not any(name.startswith("cls.predictions.") for name in weights)
    weights = {name: tensor for name, tensor in weights.items() if name in targets}
    return _fill(targets, weights, path, "give a BERT with its whole head", lambda name: absent, BERT_LEFT_OVER, [], access)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file or folder, on the CPU.

    Raises:
        WeightsError: missing, of another type, damaged, or not a dict of tensors.
    """
    file = path
    if path.is_dir():
        file = next((path / name for name in FOLDER_NAMES if (path / name).is_file()), path)
        if file == path:
            raise WeightsError(f"{path} holds neither {' nor '.join(FOLDER_NAMES)}: give the folder or file of the weights")
    if not file.is_file():
        raise WeightsError(f"{path} does not exist: download the weights and give the path of their file or folder")
    if file.suffix not in SUFFIXES:
        raise WeightsError(f"{file} is not one of {', '.join(SUFFIXES)}: convert it to one of these")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_state_dict(str(file), use_ema=False, weights_only=True)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a reader fed foreign bytes may raise anything; the file is what is at fault
        reason = why_unreadable(file, error)
        raise WeightsError(f"{file} cannot be read as weights ({reason}): download it again, or save it as safetensors") from None
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{file} holds no state dict: give a file with a dict of tensors, or one under the key `model`")
    odd = [str(name) for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise WeightsError(f"{file} holds more than tensors ({_listing(odd)}): give a file with the state dict alone")
    return dict(content)


@dataclass(frozen=True)
class _Target:
    name: str
    """In the model."""
    parameter: nn.Parameter


def _named(module: nn.Module, prefix: str, rename: Callable[[str], str | None]) -> dict[str, _Target]:
    """Parameters of `module` that start with `prefix`, by their names in the file."""
    targets = {}
    for name, parameter in module.named_parameters():
        if name.startswith(prefix) and (foreign := rename(name)) is not None:
            targets[foreign] = _Target(name, parameter)
    return targets


def _bert_weights(path: Path) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in read_weights(path).items():
        plain = name.removeprefix("bert.")
        plain = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", plain)
        plain = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", plain)
        if plain in weights:
            raise WeightsError(f"{path} holds {plain} twice under different names: keep one of them")
        weights[plain] = tensor
    return weights


def _resample(table: Tensor, distilled: bool, albef: ALBEF, remarks: list[str]) -> Tensor:
    """A position table (1, N, D) for this model's image size; a shape that makes no grid is left for the check to refuse."""
    if table.dim() != 3:
        return table
    if distilled:  # [CLS], distillation token, patches
        table = torch.cat([table[:, :1], table[:, 2:]], dim=1)
    old, new = math.isqrt(table.shape[1] - 1), math.isqrt(albef.config.vision.num_tokens - 1)
    if old == new or old < 1 or old * old != table.shape[1] - 1:
        return table
    remarks.append(f"position table resampled from {old} x {old} to {new} x {new} patches")
    resampled: Tensor = resample_abs_pos_embed(table, [new, new], num_prefix_tokens=1)
    return resampled


def _fill(
    targets: dict[str, _Target],
    weights: dict[str, Tensor],
    path: Path,
    fix: str,
    may_miss: Callable[[str], bool],
    may_remain: re.Pattern[str],
    remarks: list[str],
    access: ParameterAccess,
) -> LoadReport:
    missing = [target.name for name, target in targets.items() if name not in weights]
    refused = [name for name in missing if not may_miss(name)]
    if refused:
        raise WeightsError(f"{path} lacks {len(refused)} tensors of the model ({_listing(refused)}): {fix}")
    left_over = [name for name in weights if name not in targets]
    refused = [name for name in left_over if not may_remain.fullmatch(name)]
    if refused:
        raise WeightsError(f"{path} holds {len(refused)} tensors without a place in the model ({_listing(refused)}): {fix}")
    taken = {name: target for name, target in targets.items() if name in weights}
    for name, target in taken.items():
        shape = access.shape(target.parameter)
        if weights[name].shape != shape:
            shapes = f"{tuple(weights[name].shape)}, {target.name} in the model {tuple(shape)}"
            raise WeightsError(f"{path}: {name} has shape {shapes}: {fix}")
    for name, target in taken.items():
        access.write(target.parameter, weights[name])
    parameters = sum(access.shape(target.parameter).numel() for target in taken.values())
    total = sum(access.shape(target.parameter).numel() for target in targets.values())
    return LoadReport(len(taken), parameters, parameters / total, tuple(missing), tuple(left_over), tuple(remarks))


def _listing(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _summary(names: Iterable[str]) -> str:
    """Names cut to their first parts, layer numbers as `*`, each once."""
    short = {re.sub(r"\.\d+\.", ".*.", name): None for name in names}
    return ", ".join({".".join(name.split(".")[:4]): None for name in short})
