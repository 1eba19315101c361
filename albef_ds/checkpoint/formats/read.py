"""Reads a whole model in any format, and fills a task with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from albef_ds.checkpoint.fill import Rules, fill, fill_momentum
from albef_ds.checkpoint.foreign_names import ALBEF_ANCHOR, framework, without_prefix
from albef_ds.checkpoint.formats import native, released, run
from albef_ds.checkpoint.formats.whole_model import WholeModel, check_complete
from albef_ds.checkpoint.initial.between_tasks import POSITION_EMBEDDING, resize_position_embedding
from albef_ds.checkpoint.names import BASE, MOMENTUM, NamedTensors
from albef_ds.checkpoint.tensor_files.opening import PICKLE_SUFFIXES, open_tensors
from albef_ds.common.errors import WeightsError
from albef_ds.common.model_path import check_exists
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import ModelConfig, RunConfig
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.tasks.base import Task
from albef_ds.tasks.registry import kind_of

_IMAGE_SIZE = "model.vision.image_size="


@dataclass(frozen=True)
class Found:
    """A model and its format."""

    model: WholeModel
    form: str
    """`checkpoint`, `folder`, `safetensors` (ours) or `released`."""
    path: Path
    """The folder or file that was read; for a run, its newest checkpoint."""


def read_model(path: str | Path, overrides: Sequence[str] = (), like: ModelConfig | None = None) -> Found:
    """The model at `path`: a run or checkpoint folder, a model folder, one of our safetensors files, a released or LAVIS file.

    Args:
        path: file or folder.
        overrides: `section.field=value`; for a released file, settings that shapes do not show, else any that keep shapes.
            With `model.vision.image_size` the position table is resized as in fine-tuning.
        like: the model to be filled; a released file of uncommon width is read with its number of attention heads.

    Raises:
        WeightsError: there is no whole model, or it is damaged or incomplete.
    """
    sizes = [override for override in overrides if override.startswith(_IMAGE_SIZE)]
    found = _read(Path(path), [override for override in overrides if override not in sizes], like)
    return replace(found, model=_resized(found.model, sizes)) if sizes else found


def _read(path: Path, overrides: Sequence[str], like: ModelConfig | None) -> Found:
    check_exists(path)
    if path.is_dir():
        if (folder := run.find(path)) is not None:
            return Found(_changed(run.from_checkpoint(folder), overrides), "checkpoint", folder)
        return Found(_changed(native.from_folder(path), overrides), "folder", path)
    stored = open_tensors(path)
    if native.is_native(stored):
        return Found(_changed(native.from_native(stored, path), overrides), "safetensors", path)
    stored, prefix = without_prefix(stored, ALBEF_ANCHOR, str(path))
    other = framework(stored.tensors)
    if released.is_released_file(stored) and not other:
        model = released.from_released(stored, path.name, overrides, like)
        if prefix:
            model = replace(model, remarks=(*model.remarks, f"all names begin with {prefix}, which is left out"))
        return Found(model, "released", path)
    if other:
        raise WeightsError(f"{path} holds {other}, not a whole ALBEF model: give a file with the released code's names")
    raise WeightsError(
        f"{path} is not a whole ALBEF model: a ViT or BERT file goes to init.visual_encoder or init.text_encoder, "
        f"a model is a folder, a .safetensors or a {' / '.join(PICKLE_SUFFIXES)} file with all of its parts"
    )


def _resized(model: WholeModel, sizes: Sequence[str]) -> WholeModel:
    """The model for another image size."""
    config = parse_overrides(model.config, sizes)
    tensors = dict(model.tensors)
    for name in (POSITION_EMBEDDING, POSITION_EMBEDDING.replace(BASE, MOMENTUM, 1)):
        if name in tensors:
            tensors[name] = resize_position_embedding(tensors[name], config.model.vision.num_tokens, torch.float32)
    old, new = model.config.model.vision.image_size, config.model.vision.image_size
    said = (f"position table resized from {old} to {new} pixels",) if old != new else ()
    resized = replace(model, config=config, tensors=tensors, remarks=(*model.remarks, *said))
    check_complete(resized, "the model with this image size")
    return resized


def build_for_inference(model: WholeModel, device: torch.device, dtype: torch.dtype) -> Task:
    """The task of `model` with its student's weights, on `device` in `dtype`, in eval mode, frozen, without a feature queue."""
    settings = model.config.task.without_queue()
    with torch.random.fork_rng(devices=[]):
        task = kind_of(settings).task(model.config.model, model.config.compute, settings, seed=0)
    fill_task(task, model)
    return task.to(device=device, dtype=dtype).eval().requires_grad_(False)


def fill_task(task: Task, model: WholeModel, access: ParameterAccess = WHOLE) -> str:
    """Fills the student of `task`, and the momentum model if one is attached; returns a log line.

    Without a momentum copy in the file, the momentum model becomes equal to the student. `access` writes the parameters.
    Raises WeightsError if `model` is not of the task's kind and shape.
    """
    rules = Rules("use the model settings that it was made with", model="this run's model")
    source = f"the model of kind {model.kind}"
    line = fill(task.named_parameters(), NamedTensors(model.student), source, rules, access).counts
    if not task.has_momentum:
        return line
    if copy := model.momentum:
        fill_momentum(task, NamedTensors(copy), source, rules, access)
        return f"{line}; momentum model, {len(copy)} tensors"
    task.momentum.copy_from_student()
    return f"{line}; momentum model equal to the student, the file has none"


def _changed(model: WholeModel, overrides: Sequence[str]) -> WholeModel:
    if not overrides:
        return model
    changed: RunConfig = parse_overrides(model.config, overrides)
    model = replace(model, config=changed)
    check_complete(model, "the model with these settings")
    return model
