"""Files in the released layout with random weights: names and shapes of the golden set, and of the paper's model.

`layouts.json` lists them per kind as the golden set's JSON files do, with `{n}` for a layer's number (from, to) and `{m}`
for the student's and the momentum copy's name.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LAYOUTS = Path(__file__).resolve().parent / "layouts.json"
KINDS = ("pretrain", "retrieval", "vqa", "nlvr", "ve", "text_assignment")
HEADS = ("model.vision.num_heads=4", "model.text.num_heads=4")
"""What shapes do not show of the golden set's models."""

_BASE_SIZES = {64: 768, 192: 2304, 256: 3072, 128: 3072, 200: 30522, 17: 257}
"""Dimension of the golden set's models -> of the paper's."""
_SLIM_SIZES = {**_BASE_SIZES, 256: 384, 128: 384, 200: 200}
"""The same with narrow feed-forward layers and a small vocabulary."""
_BASE_SHAPES = {
    "vision_proj.weight": [256, 768],
    "text_proj.weight": [256, 768],
    "vision_proj.bias": [256],
    "text_proj.bias": [256],
    "position_embeddings.weight": [512, 768],
    "position_ids": [1, 512],
    "image_queue": [256, 512],
    "text_queue": [256, 512],
    "idx_queue": [1, 512],
}
_BASE_NUMBERS = {(0, 4): (0, 12), (2, 4): (6, 12)}


def layout(kind: str, *, base: bool = False, slim: bool = False) -> tuple[dict[str, list[int]], dict[str, str]]:
    """name -> shape, and name -> the name whose tensor it is; `slim`: of the golden set's depth, with `_SLIM_SIZES`."""
    described: dict[str, Any] = json.loads(LAYOUTS.read_text())["nlvr" if kind == "text_assignment" else kind]
    shapes = {}
    for name, (shape, numbers) in described["tensors"].items():
        if base:
            shape = next((large for end, large in _BASE_SHAPES.items() if re.sub(r"\{m\}", "", name).endswith(end)), None) or [
                (_SLIM_SIZES if slim else _BASE_SIZES).get(size, size) for size in shape
            ]
            numbers = numbers if slim else _BASE_NUMBERS.get(tuple(numbers), numbers)
        for twin in ("", "_m") if "{m}" in name else ("",):
            for number in range(*numbers) if numbers else (0,):
                shapes[name.replace("{m}", twin).replace("{n}", str(number))] = shape
    aliases = {
        name.replace("{m}", twin): other.replace("{m}", twin)
        for name, other in described["aliases"].items()
        for twin in ("", "_m")
    }
    if kind == "text_assignment":
        shapes = {name: shape for name, shape in shapes.items() if "_m." not in name and not name.startswith("cls_head")}
        aliases = {name: other for name, other in aliases.items() if name in shapes}
        features, width = (256, 768) if base else (32, 64)
        for side in ("vision", "text"):
            shapes |= {f"{side}_proj.weight": [features, width], f"{side}_proj.bias": [features]}
        shapes |= {"temp": [], "ta_head.weight": [3, width], "ta_head.bias": [3]}
    return shapes, aliases


def state_dict(kind: str) -> dict[str, Tensor]:
    """Random tensors under the released names; ties share one tensor."""
    shapes, aliases = layout(kind)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: _random(name, shape, generator) for name, shape in shapes.items() if name not in aliases}
    return {name: tensors[aliases.get(name, name)] for name in shapes}


def base_state_dict(kind: str, *, slim: bool = False) -> dict[str, Tensor]:
    """The paper's model in half precision without the momentum copies: a quarter of the disk's work.

    Large tensors are pieces of one list of random numbers, each from another place: drawing every number would take longer
    than all else that is done with them, and a file of them holds the list alone.

    Args:
        kind: one of `KINDS`.
        slim: with the paper's width and heads, but fewer and narrower layers.
    """
    shapes, aliases = layout(kind, base=True, slim=slim)
    shapes = {name: shape for name, shape in shapes.items() if "_m." not in name}
    generator = torch.Generator().manual_seed(0)
    numbers = ((torch.rand(25_000_000, generator=generator) - 0.5) * 0.2).half()
    tensors: dict[str, Tensor] = {}
    for place, (name, shape) in enumerate(shapes.items()):
        size = math.prod(shape)
        if size > 10_000:
            start = 997 * place % (len(numbers) - size)
            tensors[name] = numbers[start : start + size].view(shape)
        elif name not in aliases:
            tensor = _random(name, shape, generator)
            tensors[name] = tensor.half() if tensor.is_floating_point() else tensor
    return {name: tensors[aliases.get(name, name)] for name in shapes}


def _random(name: str, shape: list[int], generator: torch.Generator) -> Tensor:
    if name.endswith("position_ids"):
        return torch.arange(shape[1]).expand(1, -1)
    if name == "queue_ptr":
        return torch.tensor([7])
    if name == "idx_queue":
        return torch.randint(-1, 50, shape, generator=generator)
    if name == "temp":
        return torch.tensor(0.0625)
    scale = 0.2 if len(shape) > 1 else 0.1
    offset = 1.0 if re.search(r"norm\d?\.weight$", name, re.IGNORECASE) else 0.0
    return (torch.rand(shape, generator=generator) - 0.5) * scale + offset


def without_bert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with `text_encoder.` in place of `text_encoder.bert.`."""
    return {re.sub(r"^(text_encoder(?:_m)?)\.bert\.", r"\1.", name): tensor for name, tensor in tensors.items()}


def with_bert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same with `text_encoder.bert.` in place of `text_encoder.`, as RefCOCO+'s file has it."""
    return {re.sub(r"^(text_encoder(?:_m)?)\.", r"\1.bert.", name): tensor for name, tensor in tensors.items()}


_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32, torch.float64: torch.int64}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether both hold the same names, types and bits; integers of a float's width are faster to compare than floats."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(_bits(left[name]), _bits(right[name])) for name in left
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.view(_BITS.get(tensor.dtype, tensor.dtype))
