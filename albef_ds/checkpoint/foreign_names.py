"""Names in files of other programs: prefixes that wrappers add, other frameworks, and published numbers of heads.

`names.py` translates the names of the models that can be read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from albef_ds.checkpoint.tensor_files.lazy import StoredTensors
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.common.run_files import CONFIG_NAME
from albef_ds.config.schema import RunConfig, TextConfig, VisionConfig

ALBEF_ANCHOR, VIT_ANCHOR, BERT_ANCHOR = "visual_encoder.cls_token", "cls_token", "embeddings.word_embeddings.weight"
"""A name that every file of this kind has."""
VIT_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
"""Width -> heads of the published ViT and DeiT models (timm)."""
BERT_HEADS = {128: 2, 256: 4, 312: 12, 384: 12, 512: 8, 768: 12, 1024: 16}
"""Width -> heads of the published BERT models, TinyBERT and MiniLM included."""

_FRAMEWORKS = (
    (r"(^|\.)vision_model\.encoder\.layers\.\d", "a CLIP or SigLIP model of transformers"),
    (r"(^|\.)visual\.(transformer\.resblocks|trunk|conv1)\b", "a CLIP model of OpenAI or open_clip"),
    (r"(^|\.)encoder\.layer\.\d+\.attention\.attention\.|(^|\.)embeddings\.patch_embeddings\.", "a ViT of transformers"),
    (r"(^|\.)decoder_blocks\.\d+\.", "a masked autoencoder (MAE)"),
    (r"(^|\.)(blocks\.\d+\.ls1\.gamma|register_tokens)$", "a DINOv2 model"),
    (r"(^|\.)relative_position_bias_table$", "a Swin or BEiT model"),
    (r"(^|\.)roberta\.", "a RoBERTa model"),
    (r"(^|\.)transformer\.layer\.\d+\.attention\.q_lin\.", "a DistilBERT model"),
    (r"(^|\.)vision_encoder\.layers\.\d+\.blocks\.", "an X-VLM model"),
    (r"(^|\.)transformer\.blocks\.\d+\.attn\.qkv\.", "a ViLT model"),
)


def framework(names: Iterable[str]) -> str:
    """Returns what a file of another framework holds, by its tensors' names, or ''."""
    listed = list(names)
    # BLIP has ALBEF's names, but crosses in every layer and has no token types.
    crosses = any(re.search(r"(^|\.)text_encoder\.encoder\.layer\.0\.crossattention\.", name) for name in listed)
    if crosses and not any(name.endswith("token_type_embeddings.weight") for name in listed):
        return "a BLIP model"
    return next((what for pattern, what in _FRAMEWORKS if any(re.search(pattern, name) for name in listed)), "")


def without_prefix(stored: StoredTensors, anchor: str, source: str) -> tuple[StoredTensors, str]:
    """Returns the tensors without the prefix that stands before `anchor`, and that prefix, '' if there is none.

    A prefix of all names (`module.`, `_orig_mod.`, `backbone.`, any other) is left out of all of them, a prefix of some of them.

    Raises:
        WeightsError: several prefixes stand before `anchor`, or a name without the prefix is there too.
    """
    ends = [name.removesuffix(anchor) for name in stored.tensors if name == anchor or name.endswith(f".{anchor}")]
    if not ends or "" in ends:
        return stored, ""
    if len(ends) > 1:
        raise WeightsError(f"{source} holds several models ({', '.join(sorted(ends))}): save one of them alone")
    shared = _shared(stored.tensors)
    prefix = shared if ends[0].startswith(shared) else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in stored.tensors.items()}
    rest = ends[0].removeprefix(prefix)
    renamed = {name.removeprefix(rest): tensor for name, tensor in found.items()}
    if len(renamed) != len(found):
        raise WeightsError(f"{source} holds names with and without the prefix {ends[0]}: keep one of them")
    return replace(stored, tensors=renamed), ends[0]


def _shared(names: Iterable[str]) -> str:
    """Returns the longest prefix of whole words that all names share."""
    split = [name.split(".")[:-1] for name in names]
    shared = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0] + ".")
    return "".join(shared)


def check_heads(path: Path, section: str, settings: VisionConfig | TextConfig, known: dict[int, int]) -> None:
    """Compares the number of heads, which weights do not show, with that of the published models.

    A folder's config.json has it; for a file the table `known` by width does, unless the setting has been changed.

    Raises:
        ConfigError: the setting is another number.
    """
    stated = _stated_heads(path)
    wanted = stated or known.get(settings.width, settings.num_heads)
    if wanted != settings.num_heads and (stated or settings.num_heads == type(settings)().num_heads):
        where = f"{path} has" if stated else f"published models of width {settings.width} have"
        setting = f"model.{section}.num_heads"
        raise ConfigError(f"{setting} is {settings.num_heads}, but {where} {wanted} heads: set {setting}={wanted}")


def ask_for_heads(config: RunConfig, given: Iterable[str]) -> None:
    """Asks for the numbers of heads of encoder files whose width no published model has.

    Args:
        config: of a new run.
        given: the settings that the user has set, by their paths.

    Raises:
        ConfigError: a number was not given and has its default.
    """
    parts = (
        ("vision", config.init.visual_encoder, config.model.vision, VIT_HEADS),
        ("text", config.init.text_encoder, config.model.text, BERT_HEADS),
    )
    for section, source, settings, known in parts:
        path = f"model.{section}.num_heads"
        published = settings.width in known or settings.num_heads != type(settings)().num_heads
        if source in ("", "scratch") or config.init.checkpoint or published or path in given or _stated_heads(Path(source)):
            continue
        raise ConfigError(f"the weights in {source} of width {settings.width} do not show the number of heads: give {path}=N")


def _stated_heads(path: Path) -> int:
    try:
        heads = json.loads((path / CONFIG_NAME).read_text(encoding="utf-8"))["num_attention_heads"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return heads if isinstance(heads, int) else 0
