"""Translates tensor names between ours and those of published files: released ALBEF models, timm's ViT, transformers' BERT.

One table per kind of model is read in both directions: `place_of` translates a name of ours to the file's, `under_our_names`
the tensors of a file to ours. A row is (our prefix, file's prefix, further file prefixes of the same tensor). `{n}` is a layer
number in our prefix, and `{n}`, `{text+n}` (counted after the text encoder's layers) or `{text+n+1}` in the file's; `{m}` is
empty, or `_m` for the momentum copy. The first matching row applies. The rest of the name is the same on both sides. Released
files hold a tied tensor once per name, we hold it once.

Pretraining files have `bert.` after `text_encoder.`, fine-tuned ones mostly do not: the tables omit it (`without_bert`), a
writer inserts it (`with_bert`). A ViT file has the names of the visual encoder without their first part, a BERT file those of
the text encoder. `formats/released_shapes.py` distinguishes the kinds of released files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache

from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, equal
from albef_ds.common.errors import WeightsError

Row = tuple[str, ...]

MOMENTUM = "momentum."
"""Prefix of the names of our momentum copy, in place of `base.`."""
BASE = "base."
QUEUE = "queue."
RELEASED = "released."
"""Prefix of the names of carried tensors."""

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
    """Rows of the MLM head: `ours`, `head` in the file; its matrix is the word embedding at `words`, its bias has two names."""
    return (
        (f"{words}.", f"{embeddings}.word_embeddings.", f"{head}decoder."),
        (f"{ours}.decoder.bias", f"{head}bias", f"{head}decoder.bias"),
        (f"{ours}.dense.", f"{head}transform.dense."),
        (f"{ours}.norm.", f"{head}transform.{_NORM}"),
    )


_VISION = _under("base.albef.visual_encoder.", "visual_encoder{m}.", (("embed.", ""), ("", "")))
_TEXT = _under(
    "base.albef.text_encoder.",
    "text_encoder{m}.",
    (*_EMBEDDINGS, *_under("layers.{n}.", "encoder.layer.{n}.", (*_SELF_ATTENTION, *_FEED_FORWARD))),
)
_FUSION_LAYER = (*_SELF_ATTENTION, *_CROSS_ATTENTION, *_FEED_FORWARD)
_FUSION = _under("base.albef.multimodal_encoder.layers.{n}.", "text_encoder{m}.encoder.layer.{text+n}.", _FUSION_LAYER)
_DOUBLED = [f"text_encoder{{m}}.encoder.layer.{{{layer}}}.crossattention.self." for layer in ("text+n", "text+n+1")]
_DOUBLED_FUSION: tuple[Row, ...] = (
    ("base.albef.multimodal_encoder.layers.{n}.cross_attention.key_value.", *_DOUBLED),
    *_FUSION,
)
"""NLVR2: layers come in pairs that share the first layer's keys and values."""
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
_PROJECTIONS: tuple[Row, ...] = (("base.albef.vision_proj.", "vision_proj{m}."), ("base.albef.text_proj.", "text_proj{m}."))
_QUEUE: tuple[Row, ...] = (("queue.images", "image_queue"), ("queue.texts", "text_queue"), ("queue.pointer", "queue_ptr"))
_QUEUE_OF_IDS: tuple[Row, ...] = (*_QUEUE, ("queue.image_ids", "idx_queue"))
_MATCHING: tuple[Row, ...] = (("temperature", "temp"), ("itm_head.", "itm_head."))
_CLASSES: tuple[Row, ...] = (("base.cls_head.dense.", "cls_head{m}.0."), ("base.cls_head.output.", "cls_head{m}.2."))
_ASSIGNMENT: tuple[Row, ...] = (("vision_proj.", "vision_proj."), ("ta_head.", "ta_head."), (RELEASED, ""))
_MLM_HEAD = _mlm_head(
    "base.mlm_head",
    "base.albef.text_encoder.embeddings.word",
    "text_encoder{m}.cls.predictions.",
    "text_encoder{m}.embeddings",
)

TABLES: dict[str, tuple[Row, ...]] = {
    "pretrain": (*_MATCHING, *_VISION, *_MLM_HEAD, *_TEXT, *_FUSION, *_PROJECTIONS, *_QUEUE),
    "retrieval": (*_MATCHING, *_VISION, *_TEXT, *_FUSION, *_PROJECTIONS, *_QUEUE_OF_IDS),
    "classification": (*_VISION, *_TEXT, *_FUSION, *_CLASSES),
    "nlvr": (*_VISION, *_TEXT, *_DOUBLED_FUSION, *_CLASSES),
    "text_assignment": (*_VISION, *_TEXT, *_DOUBLED_FUSION, *_ASSIGNMENT),
    "vqa": (*_VISION, *_TEXT, *_FUSION, *_DECODER),
}
"""Kind of model -> its rows, for the kinds of the released code: those of `task.kind`, and those of `PAIRED`."""
PAIRED = {"classification": "nlvr"}
"""`task.kind` -> the released code's kind for paired layers, if it differs."""
WITH_BERT = ("pretrain",)
"""Kinds whose files have `bert.` after `text_encoder.`."""

LEFT_OVER = re.compile(r"(text_encoder|text_decoder)(_m)?\.(bert\.)?embeddings\.position_ids")
"""A buffer that counts from 0: the only other content that a released file may have beside the tables and the queues."""
CARRIED = {"text_assignment": re.compile(r"text_proj\..*|temp")}
"""Kind -> tensors that the released code creates but never uses: not part of our task, kept for conversion back."""
RELEASED_QUEUES = tuple(theirs for _, theirs in _QUEUE_OF_IDS)


@dataclass(frozen=True)
class Place:
    """The name of one of our tensors in a released file."""

    name: str
    tied: tuple[str, ...] = ()
    """Further names of the same tensor."""


def without_bert(name: str) -> str:
    """A released name without the `bert.` that some files have after `text_encoder.`."""
    return re.sub(r"^(text_encoder(?:_m)?)\.bert\.", r"\1.", name)


def with_bert(name: str) -> str:
    """The inverse of `without_bert`, for pretraining files; the MLM head is outside `bert.` and keeps its name."""
    return re.sub(r"^(text_encoder(?:_m)?)\.(?!cls\.)", r"\1.bert.", name)


def place_of(name: str, kind: str, num_text_layers: int) -> Place | None:
    """The released place of our tensor `name` (with prefix `momentum.` of the momentum copy, else the student), or None."""
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


def timm_name(name: str) -> str | None:
    """timm's `VisionTransformer` name of a visual encoder parameter of `ALBEF`; None for others."""
    return _behind("visual_encoder.", name, 0)


def bert_name(name: str, num_text_layers: int) -> str | None:
    """BERT's name (as in `BertModel`, no prefix) of a text or multimodal encoder parameter of `ALBEF`; None for others.

    Multimodal layer i is BERT layer `num_text_layers + i`.
    """
    return _behind("text_encoder.", name, num_text_layers)


def _behind(prefix: str, name: str, num_text_layers: int) -> str | None:
    place = place_of(f"{BASE}albef.{name}", "retrieval", num_text_layers)
    return place.name.removeprefix(prefix) if place is not None and place.name.startswith(prefix) else None


@dataclass(frozen=True)
class NamedTensors:
    """Tensors under our names, with their names in the source."""

    tensors: dict[str, LazyTensor]
    source_names: dict[str, str] = field(default_factory=dict)
    """Our name -> the file's, if it differs."""
    left_over: dict[str, LazyTensor] = field(default_factory=dict)
    """Tensors of the file without a name of ours."""


def under_our_names(
    stored: Mapping[str, LazyTensor], places: Mapping[str, Place | None], source: str, plain: Callable[[str], str] = str
) -> NamedTensors:
    """The tensors of a file; those with a place get our names.

    Args:
        stored: the file's content.
        places: our name -> its place (`place_of`).
        source: for messages.
        plain: converts a name in the file to one of the table's.

    Raises:
        WeightsError: two names become the same, or tensors that should be tied differ.
    """
    original = unique(stored, plain)
    tensors, source_names, left_over = {}, {}, {name: stored[found] for name, found in original.items()}
    for ours, place in places.items():
        found = [name for name in ((place.name, *place.tied) if place else ()) if name in original]
        for name in found:
            first, other = original[found[0]], original[name]
            if first != other and not equal(stored[first].read(), stored[other].read()):
                raise WeightsError(f"{source}: {first} and {other} differ: give a file that ties them")
            source_names[ours], tensors[ours] = first, stored[first]
            left_over.pop(name, None)
    return NamedTensors(tensors, source_names, left_over)


def unique(names: Iterable[str], change: Callable[[str], str]) -> dict[str, str]:
    """Changed name -> name. Raises WeightsError if two become the same."""
    found: dict[str, str] = {}
    for name in names:
        plain = change(name)
        if plain in found:
            raise WeightsError(f"the file holds {plain} twice, as {found[plain]} and {name}: keep one of them")
        found[plain] = name
    return found


@cache
def _patterns(kind: str) -> tuple[tuple[re.Pattern[str], Row], ...]:
    return tuple((re.compile(re.escape(row[0]).replace(r"\{n\}", r"(\d+)")), row[1:]) for row in TABLES[kind])


def _insert(template: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        template = template.replace(mark, value)
    return template
