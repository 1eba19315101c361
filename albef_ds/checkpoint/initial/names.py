"""Parameter names: ours, those of the released ALBEF files, and through them those of BERT and timm.

Names only. Reading, checking and reshaping of tensors is `checkpoint/initial/encoders.py`'s and the converter's business.
"""

from __future__ import annotations

import re

# Each rule rewrites a prefix of our name; the released name of the rest follows by _PARTS.
_EMBEDDINGS = {
    "word.": "word_embeddings.",
    "position.": "position_embeddings.",
    "token_type.": "token_type_embeddings.",
    "norm.": "LayerNorm.",
}
_LAYER_PARTS = {
    "self_attention.output.": "attention.output.",
    "self_attention.": "attention.self.",
    "cross_attention.output.": "crossattention.output.",
    "cross_attention.key_value.": "crossattention.self.",
    "cross_attention.": "crossattention.self.",
    "feed_forward.output.": "output.",
    "feed_forward.up.": "intermediate.dense.",
}
_MLM_HEAD = {
    "decoder.weight": "decoder.weight",
    "decoder.bias": "bias",
    "dense.": "transform.dense.",
    "norm.": "transform.LayerNorm.",
}
_LAYER = re.compile(r"(text|multimodal)_encoder\.layers\.(\d+)\.(.*)")


def _swap(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    raise KeyError(name)


def bert_name(name: str, num_text_layers: int) -> str | None:
    """BERT's name (as in `BertModel`, no prefix) of a text or multimodal encoder parameter of `ALBEF`; None for others.

    Multimodal layer i is BERT layer `num_text_layers + i`.
    """
    if name.startswith("text_encoder.embeddings."):
        return "embeddings." + _swap(name.removeprefix("text_encoder.embeddings."), _EMBEDDINGS)
    match = _LAYER.fullmatch(name)
    if match is None:
        return None
    number = int(match[2]) + (num_text_layers if match[1] == "multimodal" else 0)
    part = _swap(match[3], _LAYER_PARTS)
    # Only the norm that ends a sub-layer is renamed; its dense layer keeps its name.
    return f"encoder.layer.{number}.{part.replace('output.norm.', 'output.LayerNorm.')}"


def timm_name(name: str) -> str | None:
    """timm's `VisionTransformer` name of a visual encoder parameter of `ALBEF`; None for others."""
    if not name.startswith("visual_encoder."):
        return None
    return name.removeprefix("visual_encoder.").removeprefix("embed.")


def released_name(name: str, num_text_layers: int, *, momentum: bool = False) -> str:
    """The released pretraining file's name of a `PretrainTask` parameter.

    Args:
        name: as in `task.named_parameters()`, e.g. `base.albef.vision_proj.weight`.
        num_text_layers: layers below the multimodal encoder.
        momentum: the name of its momentum copy (`_m`).

    Raises:
        KeyError: not a parameter of the pretraining task.
    """
    twin = "_m" if momentum else ""
    if name == "temperature":
        return "temp"
    if name.startswith("itm_head."):
        return name
    if name.startswith("base.mlm_head."):
        return f"text_encoder{twin}.cls.predictions." + _swap(name.removeprefix("base.mlm_head."), _MLM_HEAD)
    inner = name.removeprefix("base.albef.")
    if (vision := timm_name(inner)) is not None:
        return f"visual_encoder{twin}.{vision}"
    if (text := bert_name(inner, num_text_layers)) is not None:
        return f"text_encoder{twin}.bert.{text}"
    module, _, rest = inner.partition(".")
    if module in ("vision_proj", "text_proj"):
        return f"{module}{twin}.{rest}"
    raise KeyError(name)
