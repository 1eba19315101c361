"""Writes a whole model in another format: under a temporary name, read back and compared, then renamed.

A destination is complete or absent: files stay in a hidden folder beside it until every tensor has been read back equal to the
source's. Only one tensor is in memory at a time if source and destination are safetensors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch

import albef_ds
from albef_ds.checkpoint.formats import native, released
from albef_ds.checkpoint.formats.read import Found, read_model
from albef_ds.checkpoint.formats.whole_model import Weights, WholeModel
from albef_ds.checkpoint.names import MOMENTUM, WITH_BERT, place_of
from albef_ds.checkpoint.tensor_files.hashed import sha256_of
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, equal, listing
from albef_ds.checkpoint.tensor_files.opening import INDEX_SUFFIX
from albef_ds.common.atomic_files import scratch_path
from albef_ds.common.errors import ConfigError, MachineError, WeightsError
from albef_ds.common.progress import Progress, silent

Form = Literal["released", "lavis", "safetensors", "folder"]
FORMS: tuple[Form, ...] = get_args(Form)
DTYPES = {"keep": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Options:
    """Choices of a conversion."""

    form: Form
    weights: Weights = "both"
    """Student, momentum copy (in the student's place) or both."""
    queues: bool = True
    dtype: str = "keep"
    """A key of `DTYPES`."""
    max_shard_bytes: int = 0
    """Size above which safetensors are split into several files; 0: never."""
    wrapped: bool | None = None
    """Released form: under the key `model` or bare; None: as in a released source, else under `model`."""
    bert: bool | None = None
    """Released form: with `bert.` after `text_encoder.`; None: as in a released source, else for pretraining only."""
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """The result of a conversion."""

    files: tuple[Path, ...]
    tensors: int
    parameters: int
    share: float
    """Converted share of the source's elements."""
    left: tuple[str, ...]
    """Our names of the tensors that were not converted."""
    sha256: str
    """SHA-256 of the first file."""

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors, {self.parameters:,} parameters ({self.share:.1%} of the source's numbers)"]
        if self.left:
            parts.append(f"{len(self.left)} not converted: {listing(self.left)}")
        return "; ".join([*parts, "read back and equal"])


def convert(source: Found, destination: Path, options: Options, progress: Progress = silent) -> Written:
    """Writes the model to the new file `destination`, or for the form `folder` to a new folder.

    `progress` is called after every tensor that was read back. Raises UserError if the destination exists, cannot be written or
    does not read back equal; if the model has no such form; or if a weight is too large for the chosen precision.
    """
    model, left = prepared(source.model, options)
    model = replace(model, lineage=(*model.lineage, _step(source, options)))
    _check_free(destination, options)
    with scratch_path(destination) as scratch:
        try:
            scratch.mkdir()
            written = _write(model, scratch / destination.name, options)
        except OSError as error:
            reason = error.strerror
            raise MachineError(f"{destination} cannot be written ({reason}): free the disk or give another place") from None
        _verify(model, written[0], options, progress)
        first = written[0] if written[0].is_file() else min(written[0].glob("*.safetensors"))
        sha256 = sha256_of(first)
        places = [_move(path, destination.parent, overwrite=options.overwrite) for path in reversed(written)]
    total = sum(tensor.numel for tensor in source.model.tensors.values())
    taken = sum(tensor.numel for name, tensor in source.model.tensors.items() if name not in left)
    return Written(tuple(reversed(places)), len(model.tensors), model.parameters, taken / total, tuple(left), sha256)


def prepared(model: WholeModel, options: Options) -> tuple[WholeModel, list[str]]:
    """The model as it will be written, and names in `model` that are not converted. Raises ConfigError as `convert`."""
    if options.dtype not in DTYPES:
        raise ConfigError(f"dtype {options.dtype} is not known: give one of {', '.join(DTYPES)}")
    chosen = model.select(options.weights, options.queues).cast(DTYPES[options.dtype])
    if options.form in ("released", "lavis"):
        released.to_released(chosen)
        homeless = set(released.without_place(chosen))
        chosen = replace(chosen, tensors={name: tensor for name, tensor in chosen.tensors.items() if name not in homeless})
        lavis = {"wrapped": True, "bert": chosen.table in WITH_BERT}
        layout = lavis if options.form == "lavis" else dict(chosen.layout)
        layout |= {key: value for key, value in (("wrapped", options.wrapped), ("bert", options.bert)) if value is not None}
        chosen = replace(chosen, layout=layout)
    gone = [name for name in model.tensors if name not in chosen.tensors]
    if options.weights == "momentum":  # the copy is kept, in the student's place; the student's weights are gone
        gone = [name.replace(MOMENTUM, "base.", 1) if name.startswith(MOMENTUM) else name for name in gone]
    return chosen, gone


def mapping(model: WholeModel, options: Options) -> Iterator[tuple[str, str, str, str]]:
    """Yields (name in the source, our name, name in the destination, shape and type) of every tensor to be written."""
    chosen, _ = prepared(model, options)
    for name, tensor in chosen.tensors.items():
        there = name
        if options.form in ("released", "lavis"):
            place = place_of(name, chosen.table, chosen.config.model.text.num_layers)
            there = "" if place is None else " = ".join([place.name, *place.tied])
        shape = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        yield model.source_names.get(name, name), name, there, shape


def _write(model: WholeModel, path: Path, options: Options) -> list[Path]:
    """Writes the files; returns them, first the file or folder to open."""
    if options.form == "folder":
        path.mkdir()
        native.save_folder(model, path, options.max_shard_bytes)
        return [path]
    if options.form == "safetensors":
        return native.save_file(model, path, options.max_shard_bytes)
    released.save_released(model, path, wrapped=model.layout.get("wrapped", True))
    return [path]


def _verify(model: WholeModel, path: Path, options: Options, progress: Progress) -> None:
    """Reads `path` as a user would and compares every tensor with the source's."""
    again = read_model(path, like=model.config.model).model
    for number, (name, tensor) in enumerate(model.tensors.items()):
        progress("reading back", number, len(model.tensors))
        other = again.tensors.get(name)
        try:
            survived = other is not None and _survived(tensor, other, options)
        except WeightsError:  # its checksum is another one
            survived = False
        if not survived:
            raise MachineError(f"{path.name} does not read back as it was written ({name}): check the disk and convert again")
    ours, theirs = model.config.model, again.config.model
    if options.form in ("safetensors", "folder") and (ours, model.config.task) != (theirs, again.config.task):
        raise MachineError(f"{path.name} does not read back with its settings: check the disk and convert again")


def _survived(tensor: LazyTensor, other: LazyTensor, options: Options) -> bool:
    if tensor.dtype != other.dtype:
        return False
    value = tensor.read()
    if options.dtype == "fp16" and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ConfigError("a weight is not finite in fp16: take bf16 or fp32")
    return equal(value, other.read())


def _check_free(destination: Path, options: Options) -> None:
    if not destination.parent.is_dir():
        raise MachineError(f"{destination.parent} is not a folder: make it first")
    suffixes = {"safetensors": (".safetensors",), "folder": ()}.get(options.form, (".pth", ".pt"))
    if suffixes and destination.suffix not in suffixes:
        raise ConfigError(f"{destination} does not end in {' or '.join(suffixes)}, as form {options.form} must: rename it")
    index = destination.with_name(destination.name.removesuffix(".safetensors") + INDEX_SUFFIX)
    for path in (destination, index):
        if path.exists() and not options.overwrite:
            raise MachineError(f"{path} exists: give another name, or overwrite it")
    if options.overwrite and destination.exists() and destination.is_dir() != (options.form == "folder"):
        raise MachineError(f"{destination} is {'a folder' if destination.is_dir() else 'a file'}: give another name")
    if destination.is_dir() and not native.is_model_folder(destination):
        raise MachineError(f"{destination} is a folder but not a model folder: give another name, nothing of it is replaced")


def _move(path: Path, folder: Path, *, overwrite: bool) -> Path:
    final = folder / path.name
    if final.is_dir() and overwrite:
        os.replace(final, path.parent / "replaced")
    os.replace(path, final)
    return final


def _step(source: Found, options: Options) -> dict[str, object]:
    chosen: Sequence[tuple[str, object]] = (
        ("to", options.form),
        ("weights", options.weights),
        ("dtype", options.dtype),
        ("sha256", sha256_of(source.path) if source.path.is_file() else ""),
        ("date", time.strftime("%Y-%m-%d")),
        ("version", albef_ds.__version__),
    )
    return {"what": "converted", "from": f"{source.form} {source.path.name}", **dict(chosen)}
