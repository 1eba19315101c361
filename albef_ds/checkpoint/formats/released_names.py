"""Names of our tensors and of the released files': one table per kind of model, read in both directions.

A row is (our prefix, released prefix, further released prefixes of the same tensor). In it `{n}` is the number of a layer
on our side and stands as `{n}`, `{text+n}` (counted after the layers of the text encoder) or `{text+n+1}` on theirs;
`{m}` is empty, or `_m` for the momentum copy. The first row that fits counts. What follows the prefix is the same on both
sides. Released files hold a tied tensor once per name, we hold it once.

Pretraining files put `bert.` behind `text_encoder.`, fine-tuned ones mostly do not: the tables are without it
(`plain_name`), a writer puts it in. Knows no tensors; `shapes.py` tells the kinds apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

Row = tuple[str, ...]

MOMENTUM = "momentum."
"""What the names of our momentum copy begin with, in place of `base.`."""
BASE = "base."
QUEUE = "queue."
RELEASED = "released."
"""What the names of carried tensors begin with."""

_NORM = "LayerNorm."
_EMBEDDINGS: tuple[Row, ...] = (
    ("embeddings.word.", "embeddings.word_embeddings."),
    ("embeddings.position.", "embeddings.position_embeddings."),
    ("embeddings.token_type.", "embeddings.token_type_embeddings."),
    ("embeddings.norm.", f"embeddings.{_NORM}"),
)
_SELF_ATTENTION: tuple[Row, ...] = (
    ("self_attention.output.norm.", f"attention.output.{_NORM}"),
    ("self_attention.output.dense.", "attention.output.dense."),
    ("self_attention.", "attention.self."),
)
_CROSS_OUTPUT: tuple[Row, ...] = (
    ("cross_attention.output.norm.", f"crossattention.output.{_NORM}"),
    ("cross_attention.output.dense.", "crossattention.output.dense."),
)
_CROSS_ATTENTION: tuple[Row, ...] = (
    *_CROSS_OUTPUT,
    ("cross_attention.key_value.", "crossattention.self."),
    ("cross_attention.", "crossattention.self."),
)
_FEED_FORWARD: tuple[Row, ...] = (
    ("feed_forward.output.norm.", f"output.{_NORM}"),
    ("feed_forward.output.dense.", "output.dense."),
    ("feed_forward.up.", "intermediate.dense."),
)


def _under(ours: str, theirs: str, rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple((ours + row[0], *(theirs + name for name in row[1:])) for row in rows)


def _mlm_head(ours: str, words: str, head: str, embeddings: str) -> tuple[Row, ...]:
    """The head at `ours`, `head` there; its matrix is the word embeddings' at `words`, its bias stands under two names."""
    return (
        (f"{words}.", f"{embeddings}.word_embeddings.", f"{head}decoder."),
        (f"{ours}.decoder.bias", f"{head}bias", f"{head}decoder.bias"),
        (f"{ours}.dense.", f"{head}transform.dense."),
        (f"{ours}.norm.", f"{head}transform.{_NORM}"),
    )


_VISION = _under(
    "base.albef.visual_encoder.",
    "visual_encoder{m}.",
    (("embed.cls_token", "cls_token"), ("embed.pos_embed", "pos_embed"), ("embed.patch_embed.", "patch_embed."), ("", "")),
)
_TEXT = _under(
    "base.albef.text_encoder.",
    "text_encoder{m}.",
    (*_EMBEDDINGS, *_under("layers.{n}.", "encoder.layer.{n}.", (*_SELF_ATTENTION, *_FEED_FORWARD))),
)
_FUSION_LAYER = (*_SELF_ATTENTION, *_CROSS_ATTENTION, *_FEED_FORWARD)
_FUSION = _under("base.albef.multimodal_encoder.layers.{n}.", "text_encoder{m}.encoder.layer.{text+n}.", _FUSION_LAYER)
_DOUBLED_FUSION: tuple[Row, ...] = (
    (
        "base.albef.multimodal_encoder.layers.{n}.cross_attention.key_value.",
        "text_encoder{m}.encoder.layer.{text+n}.crossattention.self.",
        "text_encoder{m}.encoder.layer.{text+n+1}.crossattention.self.",
    ),
    *_FUSION,
)
"""NLVR2: layers come in pairs, the second of which has the first one's keys and values."""
_DECODER: tuple[Row, ...] = (
    *_mlm_head(
        "base.decoder.mlm_head",
        "base.decoder.embeddings.word",
        "text_decoder{m}.cls.predictions.",
        "text_decoder{m}.bert.embeddings",
    ),
    *_under("base.decoder.", "text_decoder{m}.bert.", _EMBEDDINGS),
    *_under("base.decoder.encoder.layers.{n}.", "text_decoder{m}.bert.encoder.layer.{n}.", _FUSION_LAYER),
)
_PROJECTIONS: tuple[Row, ...] = (
    ("base.albef.vision_proj.", "vision_proj{m}."),
    ("base.albef.text_proj.", "text_proj{m}."),
)
_MATCHING: tuple[Row, ...] = (("temperature", "temp"), ("itm_head.", "itm_head."))
_CLASSES: tuple[Row, ...] = (("base.cls_head.dense.", "cls_head{m}.0."), ("base.cls_head.output.", "cls_head{m}.2."))
_MLM_HEAD = _mlm_head(
    "base.mlm_head",
    "base.albef.text_encoder.embeddings.word",
    "text_encoder{m}.cls.predictions.",
    "text_encoder{m}.embeddings",
)

TABLES: dict[str, tuple[Row, ...]] = {
    "pretrain": (*_MATCHING, *_VISION, *_MLM_HEAD, *_TEXT, *_FUSION, *_PROJECTIONS),
    "retrieval": (*_MATCHING, *_VISION, *_TEXT, *_FUSION, *_PROJECTIONS),
    "classification": (*_VISION, *_TEXT, *_FUSION, *_CLASSES),
    "nlvr": (*_VISION, *_TEXT, *_DOUBLED_FUSION, *_CLASSES),
    "text_assignment": (*_VISION, *_TEXT, *_DOUBLED_FUSION, ("vision_proj.", "vision_proj."), ("ta_head.", "ta_head.")),
    "vqa": (*_VISION, *_TEXT, *_FUSION, *_DECODER),
}
"""Kind of model -> its rows. Kinds are those of `task.kind`, and `nlvr` for a classification of two images."""

LEFT_OVER = re.compile(r"(text_encoder|text_decoder)(_m)?\.(bert\.)?embeddings\.position_ids")
"""What a released file may hold beside the tables and the queues: a buffer that counts from 0."""
CARRIED = {"text_assignment": re.compile(r"text_proj\..*|temp")}
"""Kind -> tensors that the released code makes and never uses: no part of our task, kept for the way back."""

RELEASED_QUEUES = ("image_queue", "text_queue", "idx_queue", "queue_ptr")


@dataclass(frozen=True)
class Place:
    """Where one of our tensors stands in a released file."""

    name: str
    tied: tuple[str, ...] = ()
    """Further names of the same tensor."""


def plain_name(name: str) -> str:
    """A released name without the `bert.` that some files put behind `text_encoder.`."""
    return re.sub(r"^(text_encoder(?:_m)?)\.bert\.", r"\1.", name)


def bert_name(name: str) -> str:
    """`plain_name` undone, for pretraining files; the MLM head stands beside `bert.` and keeps its name."""
    return re.sub(r"^(text_encoder(?:_m)?)\.(?!cls\.)", r"\1.bert.", name)


def place_of(name: str, kind: str, num_text_layers: int) -> Place | None:
    """The released place of our tensor `name` (`base.` or beside it: the student; `momentum.`: its copy); None without one."""
    momentum = name.startswith(MOMENTUM)
    ours = BASE + name.removeprefix(MOMENTUM) if momentum else name
    for pattern, theirs in _patterns(kind):
        match = pattern.match(ours)
        if match is None:
            continue
        number = int(match[1]) if match.groups() else 0
        numbers = {"{m}": "_m" if momentum else "", "{n}": str(number)}
        numbers |= {"{text+n}": str(num_text_layers + number), "{text+n+1}": str(num_text_layers + number + 1)}
        rest = ours[match.end() :]
        names = [_insert(template, numbers) + rest for template in theirs]
        return Place(names[0], tuple(names[1:]))
    return None


@cache
def _patterns(kind: str) -> tuple[tuple[re.Pattern[str], Row], ...]:
    return tuple((re.compile(re.escape(row[0]).replace(r"\{n\}", r"(\d+)")), row[1:]) for row in TABLES[kind])


def _insert(template: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        template = template.replace(mark, value)
    return template
