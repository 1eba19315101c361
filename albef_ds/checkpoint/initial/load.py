"""Fills a new run's task with the weights that `config.init` names: a whole model of any task, or published encoders.

Tensors and model must match, except for short lists; exceptions are reported. File formats are in `formats/`, the renaming
between tasks is in `between_tasks.py`, ViT and BERT files are in `encoders.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from albef_ds.checkpoint.fill import Rules, fill, fill_momentum
from albef_ds.checkpoint.formats.read import Found, read_model
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.initial.between_tasks import POSITION_EMBEDDING, resize_position_embedding, transplant
from albef_ds.checkpoint.initial.encoders import load_mlm_head, load_text_encoder, load_visual_encoder
from albef_ds.checkpoint.names import BASE, NamedTensors
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.common.errors import ConfigError
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import InitConfig, PretrainConfig, RunConfig
from albef_ds.engine.build import build_task, parameter_access
from albef_ds.models.parameters import ParameterAccess
from albef_ds.tasks.base import Task
from albef_ds.tasks.pretrain import PretrainTask
from albef_ds.tasks.registry import kind_of

SCRATCH = "scratch"
_ENCODER = re.compile(r"base\.albef\.\w+_encoder\..*")
"""Tensors that must have a place in the task. The rest of another task's model is its heads, which may be left over."""


def load_initial_weights(task: Task, config: RunConfig) -> list[str]:
    """Fills the model from `init.checkpoint`, else its encoders from the files of `config.init`; returns log lines, one per file.

    Raises UserError if an encoder has neither a file nor `scratch`, or a file does not fit.
    """
    access = parameter_access(config)
    if config.init.checkpoint:
        return [f"weights: {_load_model(task, config, access)}"]
    lines = []
    for name, load in (("visual_encoder", load_visual_encoder), ("text_encoder", load_text_encoder)):
        source = getattr(config.init, name)
        if source == SCRATCH:
            lines.append(f"{name}: random weights, as asked for")
        elif not source:
            raise ConfigError(f"init.{name} is not set: give a file of weights, or init.{name}={SCRATCH} for random weights")
        else:
            lines.append(f"{name}: {load(task.model, Path(source), access)}")
    if config.init.text_encoder not in ("", SCRATCH) and isinstance(task, PretrainTask):
        lines.append(f"MLM head: {load_mlm_head(task.mlm_head, Path(config.init.text_encoder), access)}")
    return lines


def load_initial_momentum(task: Task, config: RunConfig) -> list[str]:
    """Fills the attached momentum model from that of `init.checkpoint`; returns a log line, or none if nothing is to be done.

    Parts that the file's momentum copy lacks (all, if there is none) equal the student's current weights.
    """
    if not config.init.checkpoint or not task.has_momentum:
        return []
    model = read_model(config.init.checkpoint, like=config.model).model
    if not model.momentum:
        return ["momentum model: equal to the student, the checkpoint has none"]
    access = parameter_access(config)
    found = _for_task(model.momentum, model, task, config, access)
    rules = replace(_rules(model, config), may_lack=lambda name: True)
    report = fill_momentum(task, found, str(Path(config.init.checkpoint)), rules, access)
    rest = f", {len(report.missing_allowed)} from the student" if report.missing_allowed else ""
    return [f"momentum model: {report.tensors} tensors from the checkpoint{rest}"]


def read_encoders(vision: Path, bert: Path, overrides: Sequence[str] = ()) -> Found:
    """The pretraining model that starts from `vision` and `bert`; cross-attention and ITM head are random.

    Args:
        vision: file with timm's names (timm, DeiT).
        bert: file or folder with BERT's names.
        overrides: `section.field=value`, such as the model's shape and train.seed.

    Raises:
        UserError: a file cannot be read or does not fit the shape.
    """
    init = InitConfig(visual_encoder=str(vision), text_encoder=str(bert))
    config = parse_overrides(replace(RunConfig(), init=init, task=PretrainConfig(queue_size=0)), overrides)
    task = build_task(config)
    remarks = load_initial_weights(task, config)
    tensors = {name: LazyTensor.of(parameter.detach()) for name, parameter in task.named_parameters()}
    lineage = {"what": "initial weights", "vision": vision.name, "bert": bert.name, "seed": config.train.seed}
    return Found(WholeModel(config, tensors, (lineage,), remarks=tuple(remarks)), "encoders", vision)


def _load_model(task: Task, config: RunConfig, access: ParameterAccess) -> str:
    """Fills the student from the whole model at `init.checkpoint`; returns a log line."""
    path = Path(config.init.checkpoint)
    read = read_model(path, like=config.model)
    _same_heads(read.model, config, path)
    found = _for_task(read.model.student, read.model, task, config, access)
    report = fill(task.named_parameters(), found, str(path), _rules(read.model, config), access)
    parts = [f"{report.counts} of {read.form} {path}"]
    stored = read.model.tensors[POSITION_EMBEDDING].shape
    if stored != found.tensors[POSITION_EMBEDDING].shape:
        parts.append(f"position table resized from {stored[1] - 1} patches")
    if report.missing_allowed:
        parts.append(f"random weights in {_parts(report.missing_allowed)}")
    if report.left_over_allowed:
        parts.append(f"not used: {_parts(report.left_over_allowed)}")
    return "; ".join(parts)


def _for_task(
    tensors: Mapping[str, LazyTensor], model: WholeModel, task: Task, config: RunConfig, access: ParameterAccess
) -> NamedTensors:
    """The model's tensors under the task's names, with the position table resized and without heads that must be new."""
    state = transplant(tensors, model.config.task, config.task)
    own = {name: access.shape(parameter) for name, parameter in task.named_parameters()}
    if POSITION_EMBEDDING in state:
        table, num_tokens = state[POSITION_EMBEDDING], own[POSITION_EMBEDDING][1]
        state[POSITION_EMBEDDING] = resize_position_embedding(table, num_tokens, torch.float32)
    heads = [name for name in own if name.startswith(kind_of(config.task).new_heads)]
    other = [name for name in heads if name in state and state[name].shape != own[name]]  # another number of classes
    return NamedTensors({name: tensor for name, tensor in state.items() if name not in other})


def _rules(model: WholeModel, config: RunConfig) -> Rules:
    hint = "" if model.kind == config.task.kind else f"a model of kind {model.kind} does not serve {config.task.kind}, or "
    return Rules(
        "the settings in model must be those that the checkpoint was made with (model.vision.image_size may differ)",
        may_lack=lambda name: name.startswith(kind_of(config.task).new_heads),
        may_remain=lambda name: _ENCODER.fullmatch(name) is None,
        if_lacking=hint,
    )


def _same_heads(model: WholeModel, config: RunConfig, path: Path) -> None:
    """Checks the number of heads: shapes do not depend on it, so a wrong one would load and compute something else."""
    for part in ("vision", "text"):
        theirs, ours = (getattr(settings, part).num_heads for settings in (model.config.model, config.model))
        if theirs != ours:
            raise ConfigError(f"{path} has model.{part}.num_heads={theirs}, this run {ours}: set model.{part}.num_heads={theirs}")


def _parts(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(".".join(name.removeprefix(BASE).split(".")[:2]) for name in names))
