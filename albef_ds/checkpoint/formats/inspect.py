"""Describes a file or folder of weights: format, kind, sizes, lineage, hash, possible conversions. Writes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from albef_ds.checkpoint.foreign_names import ALBEF_ANCHOR, BERT_ANCHOR, VIT_ANCHOR, framework, without_prefix
from albef_ds.checkpoint.formats.card import lineage_lines
from albef_ds.checkpoint.formats.read import Found, read_model
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.formats.write import FORMS, Options, prepared
from albef_ds.checkpoint.names import MOMENTUM, QUEUE, RELEASED
from albef_ds.checkpoint.tensor_files.hashed import sha256_of
from albef_ds.checkpoint.tensor_files.lazy import StoredTensors
from albef_ds.checkpoint.tensor_files.opening import PICKLE_SUFFIXES, open_tensors
from albef_ds.common.errors import UserError
from albef_ds.tasks.registry import kind_of

_PARTS = (
    ("image encoder", "base.albef.visual_encoder."),
    ("text encoder", "base.albef.text_encoder."),
    ("multimodal encoder", "base.albef.multimodal_encoder."),
    ("answer decoder", "base.decoder."),
)
_ENCODERS = (
    (
        VIT_ANCHOR,
        "blocks.0.attn.qkv.weight",
        "a ViT or DeiT file: init.visual_encoder, or with a BERT the source of `albef-ds convert`",
    ),
    (BERT_ANCHOR, BERT_ANCHOR, "a BERT file: init.text_encoder, or with a ViT the source of `albef-ds convert`"),
)
"""Name before which a prefix may stand, a name that the kind has, and what the file is for."""


def inspect(path: Path, overrides: Sequence[str] = (), *, tensors: bool = False) -> Iterator[str]:
    """Yields lines about `path`, with `tensors` also one per tensor. Raises UserError if it has no weights or is damaged."""
    stored = open_tensors(path) if path.is_file() else None
    if stored is not None and (found := _encoder(stored, path)):
        use, prefix = found
        yield f"{path}: {use}"
        if prefix not in ("", "bert."):  # transformers' own
            yield f"  note         names begin with {prefix}, which is left out"
        yield from _numbers("tensors", {name: tensor.numel for name, tensor in stored.tensors.items()}, stored)
        yield f"  sha256       {sha256_of(path)}"
        return
    read = read_model(path, overrides)
    model = read.model
    yield f"{path}: {_form(read)}, a model of kind {model.kind}"
    yield from _about(model)
    for number, line in enumerate(lineage_lines(model)):
        yield f"  {'lineage' if number == 0 else '':<12} {number + 1}. {line}"
    for remark in model.remarks:
        yield f"  note         {remark}"
    for file in _files(read):
        yield f"  sha256       {sha256_of(file)}  {file.name}"
    yield f"  serves       {', '.join(kind_of(model.config.task).uses) or 'fine-tuning'} of albef_ds.load"
    yield f"  converts to  {', '.join(_possible(model))}"
    if tensors:
        for name, tensor in model.tensors.items():
            yield f"    {name}  {list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _about(model: WholeModel) -> Iterator[str]:
    config = model.config.model
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in model.student.values())
    count = f"{model.parameters:,} in {len(model.student)} tensors ({', '.join(dtypes)})"
    yield f"  parameters   {count}, {model.nbytes / 1e6:,.1f} MB in all"
    for name, prefix in _PARTS:
        if part := model.part(prefix):
            yield f"  {'':<12} {sum(tensor.numel for tensor in part.values()):>13,} {name}"
    yield (
        f"  images       {config.vision.image_size} px, patches of {config.vision.patch_size}, {config.vision.depth} blocks "
        f"of width {config.vision.width}, {config.vision.num_heads} heads"
    )
    yield (
        f"  texts        {config.text.num_layers} + {config.text.num_fusion_layers} layers of width {config.text.width}, "
        f"{config.text.num_heads} heads, {config.text.vocab_size:,} word pieces"
    )
    settings = ", ".join(f"{name} {value}" for name, value in _task_settings(model).items())
    yield f"  task         {settings}"
    yield f"  momentum     {'yes' if model.part(MOMENTUM) else 'no'}"
    queue = model.part(QUEUE)
    yield f"  queue        {queue['queue.images'].shape[0]:,} features" if queue else "  queue        no"
    if carried := model.part(RELEASED):
        yield f"  carried      {', '.join(carried)}"


def _task_settings(model: WholeModel) -> dict[str, object]:
    wanted = ("kind", "num_classes", "num_images", "decoder_layers", "queue_size", "temperature")
    return {name: getattr(model.config.task, name) for name in wanted if hasattr(model.config.task, name)}


def _possible(model: WholeModel) -> Iterator[str]:
    for form in FORMS:
        try:
            prepared(model, Options(form))
        except UserError as error:
            yield f"not {form} ({str(error).partition(':')[0]})"
        else:
            yield form


def _form(found: Found) -> str:
    names = {
        "checkpoint": f"checkpoint folder {found.path.name}",
        "folder": "model folder",
        "safetensors": "albef_ds safetensors",
        "released": "released ALBEF or LAVIS file",
    }
    return names[found.form]


def _files(found: Found) -> list[Path]:
    if found.path.is_file():
        return [found.path]
    return sorted(path for path in found.path.iterdir() if path.suffix in (".safetensors", *PICKLE_SUFFIXES))


def _encoder(stored: StoredTensors, path: Path) -> tuple[str, str] | None:
    """Returns what a file of one encoder is for and the prefix of its names; None for a whole model and for other frameworks."""
    if any(name.endswith(ALBEF_ANCHOR) for name in stored.tensors) or framework(stored.tensors):
        return None
    for anchor, name, use in _ENCODERS:
        plain, prefix = without_prefix(stored, anchor, str(path))
        if name in plain.tensors:
            return use, prefix
    return None


def _numbers(what: str, counts: dict[str, int], stored: StoredTensors) -> Iterator[str]:
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in stored.tensors.values())
    yield f"  {what:<12} {len(counts)}, {sum(counts.values()):,} numbers ({', '.join(dtypes)})"
