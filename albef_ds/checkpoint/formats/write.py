"""Writing a whole model in another form: under a temporary name, read back and compared, then renamed.

A destination is whole or absent: what is written lies in a hidden folder beside it until every tensor has been found equal
to the source's. Only one tensor is held at a time where source and destination are safetensors.
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
from albef_ds.checkpoint.tensor_files.hashed import digest
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, equal, listing
from albef_ds.checkpoint.tensor_files.opening import INDEX_SUFFIX
from albef_ds.common.atomic_files import scratch_path
from albef_ds.common.errors import ConfigError, MachineError

Form = Literal["released", "lavis", "safetensors", "folder"]
FORMS: tuple[Form, ...] = get_args(Form)
DTYPES = {"keep": None, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Options:
    """What to write and how."""

    form: Form
    weights: Weights = "both"
    """Student, momentum copy (in the student's place) or both."""
    queues: bool = True
    dtype: str = "keep"
    """A key of `DTYPES`."""
    max_shard_bytes: int = 0
    """Above it safetensors are cut into several files; 0: never."""
    wrapped: bool | None = None
    """Released form: under the key `model` or bare; None: as the source was, a dict under `model` where it was no such file."""
    bert: bool | None = None
    """Released form: with `bert.` behind `text_encoder.`; None: as the source was, otherwise for pretraining only."""
    overwrite: bool = False


@dataclass(frozen=True)
class Written:
    """What a conversion did."""

    files: tuple[Path, ...]
    tensors: int
    parameters: int
    share: float
    """Of the source's tensors that were taken, by number of elements."""
    left: tuple[str, ...]
    """Our names of what stayed behind."""
    sha256: str
    """Of the first file."""

    def __str__(self) -> str:
        parts = [f"{self.tensors} tensors, {self.parameters:,} parameters ({self.share:.1%} of the source's numbers)"]
        if self.left:
            parts.append(f"{len(self.left)} stayed behind: {listing(self.left)}")
        return "; ".join([*parts, "read back and equal"])


def convert(source: Found, destination: Path, options: Options) -> Written:
    """Write the model to `destination`.

    Args:
        source: what `read_model` found.
        destination: the new file, or folder for the form `folder`.
        options: see `Options`.

    Raises:
        UserError: the destination exists, cannot be written or does not read back equal; the model has no such form;
            or a weight is too large for the precision asked for.
    """
    model, left = prepared(source.model, options)
    model = replace(model, lineage=(*model.lineage, _step(source, options)))
    _check_free(destination, options)
    with scratch_path(destination) as room:
        try:
            room.mkdir()
            written = _write(model, room / destination.name, options)
        except OSError as error:
            raise MachineError(
                f"{destination} cannot be written ({error.strerror}): free the disk or give another place"
            ) from None
        _verify(model, written[0], options)
        first = written[0] if written[0].is_file() else min(written[0].glob("*.safetensors"))
        sha256 = digest(first).sha256
        places = [_move(path, destination.parent, overwrite=options.overwrite) for path in reversed(written)]
    total = sum(tensor.numel for tensor in source.model.tensors.values())
    taken = sum(tensor.numel for name, tensor in source.model.tensors.items() if name not in left)
    return Written(tuple(reversed(places)), len(model.tensors), model.parameters, taken / total, tuple(left), sha256)


def prepared(model: WholeModel, options: Options) -> tuple[WholeModel, list[str]]:
    """The model as it will be written, and what of `model` stays behind. Raises `ConfigError` as `convert`."""
    if options.dtype not in DTYPES:
        raise ConfigError(f"dtype {options.dtype} is not known: give one of {', '.join(DTYPES)}")
    chosen = model.select(options.weights, options.queues)
    chosen = chosen.cast(DTYPES[options.dtype])
    if options.form in ("released", "lavis"):
        released.to_released(chosen)
        homeless = set(released.without_place(chosen))
        chosen = replace(chosen, tensors={name: tensor for name, tensor in chosen.tensors.items() if name not in homeless})
        layout = dict(chosen.layout)
        if options.form == "lavis":
            layout = {"wrapped": True, "bert": chosen.table in WITH_BERT}
        layout |= {key: value for key, value in (("wrapped", options.wrapped), ("bert", options.bert)) if value is not None}
        chosen = replace(chosen, layout=layout)
    gone = [name for name in model.tensors if name not in chosen.tensors]
    if options.weights == "momentum":  # they are there, in the student's place; what they replaced is gone
        gone = [name.replace(MOMENTUM, "base.", 1) if name.startswith(MOMENTUM) else name for name in gone]
    return chosen, gone


def mapping(model: WholeModel, options: Options) -> Iterator[tuple[str, str, str, str]]:
    """(name in the source, our name, name in the destination, shape and type) of every tensor that will be written."""
    chosen, _ = prepared(model, options)
    for name, tensor in chosen.tensors.items():
        there = name
        if options.form in ("released", "lavis"):
            place = place_of(name, chosen.table, chosen.config.model.text.num_layers)
            there = "" if place is None else " = ".join([place.name, *place.tied])
        shape = f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        yield model.source_names.get(name, name), name, there, shape


def _write(model: WholeModel, path: Path, options: Options) -> list[Path]:
    """Write below a private folder; the file or folder to open comes first."""
    if options.form == "folder":
        path.mkdir()
        native.save_folder(model, path, options.max_shard_bytes)
        return [path]
    if options.form == "safetensors":
        return native.save_file(model, path, options.max_shard_bytes)
    released.save_released(model, path, wrapped=model.layout.get("wrapped", True))
    return [path]


def _verify(model: WholeModel, path: Path, options: Options) -> None:
    """Read `path` as a user would and compare every tensor with the source's."""
    again = read_model(path, like=model.config.model).model
    for name, tensor in model.tensors.items():
        other = again.tensors.get(name)
        if other is None or not _survived(tensor, other, options):
            raise MachineError(f"{path.name} does not read back as it was written ({name}): check the disk and convert again")
    ours, theirs = model.config.model, again.config.model
    if options.form in ("safetensors", "folder") and (ours, model.config.task) != (theirs, again.config.task):
        raise MachineError(
            f"{path.name} does not read back with the settings it was written with: check the disk and convert again"
        )


def _survived(tensor: LazyTensor, other: LazyTensor, options: Options) -> bool:
    if tensor.dtype != other.dtype:
        return False
    value = tensor.read()
    if options.dtype == "fp16" and value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise ConfigError("a weight is not finite in fp16: take bf16 or fp32")
    return equal(value, other.read())


def _check_free(destination: Path, options: Options) -> None:
    if not destination.parent.is_dir():
        raise MachineError(f"{destination.parent} is no folder: make it first")
    suffixes = {"safetensors": (".safetensors",), "folder": (), "released": (".pth", ".pt"), "lavis": (".pth", ".pt")}[
        options.form
    ]
    if suffixes and destination.suffix not in suffixes:
        raise ConfigError(f"{destination} is not named {' or '.join(suffixes)}, as the form {options.form} is: rename it")
    index = destination.with_name(destination.name.removesuffix(".safetensors") + INDEX_SUFFIX)
    for path in (destination, index):
        if path.exists() and not options.overwrite:
            raise MachineError(f"{path} exists: give another name, or overwrite it")
    if options.overwrite and destination.exists() and destination.is_dir() != (options.form == "folder"):
        raise MachineError(f"{destination} is {'a folder' if destination.is_dir() else 'a file'}: give another name")
    if destination.is_dir() and not native.is_model_folder(destination):
        raise MachineError(f"{destination} is a folder but no model folder: give another name, nothing of it is replaced")


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
        ("sha256", digest(source.path).sha256 if source.path.is_file() else ""),
        ("date", time.strftime("%Y-%m-%d")),
        ("version", albef_ds.__version__),
    )
    return {"what": "converted", "from": f"{source.form} {source.path.name}", **dict(chosen)}
