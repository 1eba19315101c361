"""The released code's names of the fine-tuning tasks' parameters, put together from the names of the parts."""

from __future__ import annotations

from albef_ds.checkpoint.initial.names import bert_name, released_name, timm_name

_CLS_HEAD = {"dense": "0", "output": "2"}


def finetuned_name(name: str, num_text_layers: int, *, momentum: bool = False) -> str:
    """The released name of a parameter of a fine-tuning task; `momentum`: of its momentum copy."""
    twin = "_m" if momentum else ""
    if name == "temperature":
        return "temp"
    if name.startswith("itm_head."):
        return name
    module, _, rest = name.removeprefix("base.").partition(".")
    if module == "cls_head":
        layer, _, kind = rest.partition(".")
        return f"cls_head{twin}.{_CLS_HEAD[layer]}.{kind}"
    if module == "decoder":
        part, _, inner = rest.partition(".")
        if part == "mlm_head":
            pretraining = released_name(f"base.mlm_head.{inner}", num_text_layers)
            return f"text_decoder{twin}." + pretraining.removeprefix("text_encoder.")
        ours = f"text_encoder.embeddings.{inner}" if part == "embeddings" else f"multimodal_encoder.{inner}"
        return f"text_decoder{twin}.bert.{bert_name(ours, 0)}"
    if (vision := timm_name(rest)) is not None:
        return f"visual_encoder{twin}.{vision}"
    if (text := bert_name(rest, num_text_layers)) is not None:
        return f"text_encoder{twin}.{text}"
    projection, _, kind = rest.partition(".")
    return f"{projection}{twin}.{kind}"
