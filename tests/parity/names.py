"""The released code's names of our parameters; of the fine-tuning tasks put together from the names of the parts."""

from __future__ import annotations

from albef_ds.checkpoint.names import BASE, MOMENTUM, bert_name, place_of, timm_name, with_bert

_CLS_HEAD = {"dense": "0", "output": "2"}


def released_name(name: str, num_text_layers: int, *, momentum: bool = False) -> str:
    """The released pretraining file's name of a parameter of `PretrainTask`; `momentum`: of its momentum copy.

    Raises:
        KeyError: not a parameter of the pretraining task.
    """
    place = place_of(name.replace(BASE, MOMENTUM, 1) if momentum else name, "pretrain", num_text_layers)
    if place is None:
        raise KeyError(name)
    return with_bert(place.name)


def finetuned_name(name: str, num_text_layers: int, *, momentum: bool = False) -> str:
    """The released name of a parameter of a fine-tuning task; `momentum`: of its momentum copy."""
    suffix = "_m" if momentum else ""
    if name == "temperature":
        return "temp"
    if name.startswith("itm_head."):
        return name
    module, _, rest = name.removeprefix("base.").partition(".")
    if module == "cls_head":
        layer, _, kind = rest.partition(".")
        return f"cls_head{suffix}.{_CLS_HEAD[layer]}.{kind}"
    if module == "decoder":
        part, _, inner = rest.partition(".")
        if part == "mlm_head":
            pretraining = released_name(f"base.mlm_head.{inner}", num_text_layers)
            return f"text_decoder{suffix}." + pretraining.removeprefix("text_encoder.")
        ours = f"text_encoder.embeddings.{inner}" if part == "embeddings" else f"multimodal_encoder.{inner}"
        return f"text_decoder{suffix}.bert.{bert_name(ours, 0)}"
    if (vision := timm_name(rest)) is not None:
        return f"visual_encoder{suffix}.{vision}"
    if (text := bert_name(rest, num_text_layers)) is not None:
        return f"text_encoder{suffix}.{text}"
    projection, _, kind = rest.partition(".")
    return f"{projection}{suffix}.{kind}"
