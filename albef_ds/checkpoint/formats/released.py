"""Reads and writes released ALBEF files of every kind, and LAVIS's with the same names: a state dict, bare or in a training dict.

Files are read with `weights_only=True` through a memory map, and written from the table in `names.py`; the queue is transposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint import names
from albef_ds.checkpoint.fill import NEVER, Rules, check_fit
from albef_ds.checkpoint.formats.released_shapes import is_released, released_config
from albef_ds.checkpoint.formats.whole_model import COMPLETE, WholeModel, shapes_of
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, StoredTensors
from albef_ds.checkpoint.tensor_files.torch_form import write_torch_file
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.config.schema import ModelConfig
from albef_ds.config.tasks import ContrastiveConfig
from albef_ds.models.feature_queue import NO_ID


def is_released_file(stored: StoredTensors) -> bool:
    """True if the tensors have released names."""
    return is_released({names.without_bert(name): None for name in stored.tensors})


def from_released(
    stored: StoredTensors, source: str, overrides: Sequence[str] = (), like: ModelConfig | None = None
) -> WholeModel:
    """The model in a released file.

    Args:
        stored: the file's content.
        source: its name, for messages and lineage.
        overrides: settings that shapes do not show, `section.field=value`.
        like: as in `released_config`.

    Raises:
        WeightsError: it is not an ALBEF model; a tensor is missing, left over or of another shape; or tied tensors differ.
    """
    original = names.unique(stored.tensors, names.without_bert)
    tensors = {plain: stored.tensors[name] for plain, name in original.items()}
    config = released_config(tensors, overrides, source, like)
    start = WholeModel(config, {})
    kind, shapes = start.table, shapes_of(config).student
    if any(name.startswith("visual_encoder_m.") for name in tensors):
        shapes = shapes | shapes_of(config).momentum
    places = {ours: names.place_of(ours, kind, config.model.text.num_layers) for ours in shapes}
    found = names.under_our_names(stored.tensors, places, source, names.without_bert)
    queue = _read_queue(tensors, source)
    carries = names.CARRIED[kind].fullmatch if kind in names.CARRIED else NEVER
    left_over = {original[name]: found.left_over[name] for name in found.left_over if name not in names.RELEASED_QUEUES}
    carried = {names.RELEASED + name: left_over.pop(name) for name in [*left_over] if carries(name)}
    taken = {ours: _scalar_as_one(tensor, shapes[ours]) for ours, tensor in found.tensors.items()}
    rules = Rules(COMPLETE, may_remain=names.LEFT_OVER.fullmatch, model=f"a {kind} model")
    check_fit(shapes, replace(found, tensors=taken, left_over=left_over), source, rules)
    lineage = {"what": "released file", "kind": kind, **_beside(stored.beside)}
    if isinstance(config.task, ContrastiveConfig):
        value = float(taken["temperature"].read())
        config = replace(config, task=replace(config.task, temperature=_within(value, config.task)))
    return replace(
        start,
        config=config,
        tensors=taken | carried | queue,
        lineage=(lineage,),
        source_names=found.source_names,
        unused=tuple(left_over),
        remarks=_remarks(stored, config.model.vision.num_heads, config.model.text.num_heads),
        layout={"wrapped": stored.wrapped, "bert": any(name != plain for plain, name in original.items())},
    )


def to_released(model: WholeModel) -> dict[str, LazyTensor]:
    """The tensors under released names: tied ones under each name, the queue transposed, position counters recreated.

    Raises ConfigError if the released code cannot express the model.
    """
    if model.table not in names.TABLES:
        raise ConfigError(f"a model of kind {model.kind} has no released form: take the form safetensors or folder")
    if model.config.model.vision.stem != "patch":
        raise ConfigError("a model with model.vision.stem=convolution has no released form: take the form safetensors or folder")
    if model.config.model.text.pooling != "cls":
        raise ConfigError("a model with model.text.pooling=mean has no released form: take the form safetensors or folder")
    text_layers = model.config.model.text.num_layers
    released: dict[str, LazyTensor] = {}
    for ours, tensor in model.tensors.items():
        place = names.place_of(ours, model.table, text_layers)
        if place is None or ours.startswith(names.QUEUE):
            continue  # reported by `without_place`, or written by `_write_queue`
        if ours == "temperature":
            tensor = tensor.then(lambda value: value.reshape(()), ())
        for name in (place.name, *place.tied):
            released[name] = tensor
    released |= _write_queue(model)
    for prefix in [name.removesuffix("word_embeddings.weight") for name in released if name.endswith("word_embeddings.weight")]:
        length = released[f"{prefix}position_embeddings.weight"].shape[0]
        released[f"{prefix}position_ids"] = LazyTensor.of(torch.arange(length).expand(1, -1))
    if model.layout.get("bert", model.table in names.WITH_BERT):
        released = {names.with_bert(name): tensor for name, tensor in released.items()}
    return released


def without_place(model: WholeModel) -> list[str]:
    """Names of the tensors that have no place in a released file."""
    text_layers = model.config.model.text.num_layers
    return [name for name in model.tensors if names.place_of(name, model.table, text_layers) is None]


def save_released(model: WholeModel, path: Path, *, wrapped: bool) -> None:
    """Writes the new file `path`; with `wrapped` under the key `model`, as the released code and LAVIS read it."""
    write_torch_file(path, to_released(model), under="model" if wrapped else None)


def _scalar_as_one(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """Reshapes a scalar, such as the temperature in released files, to our shape (1,)."""
    return tensor.then(lambda value: value.reshape(1), (1,)) if tensor.shape == () and shape == (1,) else tensor


def _read_queue(tensors: Mapping[str, LazyTensor], source: str) -> dict[str, LazyTensor]:
    if "image_queue" not in tensors:
        return {}
    for name in ("text_queue", "queue_ptr"):
        if name not in tensors:
            raise WeightsError(f"{source} has image_queue without {name}: fetch it again, or take the queues out of it")
    size = tensors["image_queue"].shape[1]

    def rows(name: str) -> LazyTensor:
        stored = tensors[name]
        return stored.then(lambda queue: queue.T.contiguous(), stored.shape[::-1])

    ids = LazyTensor.of(torch.full((size,), NO_ID))
    image_ids = tensors["idx_queue"].then(lambda ids: ids.reshape(-1), (size,)) if "idx_queue" in tensors else ids
    return {
        "queue.images": rows("image_queue"),
        "queue.texts": rows("text_queue"),
        "queue.image_ids": image_ids,
        "queue.caption_ids": ids,
        "queue.pointer": tensors["queue_ptr"].then(lambda pointer: pointer.reshape(()), ()),
        "queue.filled": LazyTensor.of(torch.tensor(size)),
    }


def _write_queue(model: WholeModel) -> dict[str, LazyTensor]:
    if "queue.images" not in model.tensors:
        return {}
    queue = model.part(names.QUEUE)
    images, texts, pointer = queue["queue.images"], queue["queue.texts"], queue["queue.pointer"]
    written = {
        "image_queue": images.then(lambda rows: rows.T.contiguous(), images.shape[::-1]),
        "text_queue": texts.then(lambda rows: rows.T.contiguous(), texts.shape[::-1]),
        "queue_ptr": pointer.then(lambda value: value.reshape(1), (1,)),
    }
    if names.place_of("queue.image_ids", model.table, 0) is not None:
        ids = queue["queue.image_ids"]
        written["idx_queue"] = ids.then(lambda value: value.reshape(1, -1), (1, *ids.shape))
    return written


def _within(temperature: float, settings: ContrastiveConfig) -> float:
    return min(max(temperature, settings.temperature_min), settings.temperature_max)


def _beside(beside: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a training checkpoint to keep: the epoch."""
    epoch = beside.get("epoch")
    return {"epoch": epoch} if isinstance(epoch, int) else {}


def _remarks(stored: StoredTensors, vision_heads: int, text_heads: int) -> tuple[str, ...]:
    remarks = [f"attention heads are not in the file: {vision_heads} for images, {text_heads} for texts"]
    if stored.beside:
        remarks.append(f"not converted: {', '.join(sorted(map(str, stored.beside)))}")
    return tuple(remarks)
