"""Initial weights of a run from a whole model: `init.checkpoint`, which may be of another task and another image size.

Every tensor must find a place and every place a tensor, outside the short lists below; the exceptions are reported. The file
formats are in `checkpoint/formats/`, the renaming between tasks is in `between_tasks.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from albef_ds.checkpoint.formats.read import read_model
from albef_ds.checkpoint.formats.released_names import BASE, MOMENTUM
from albef_ds.checkpoint.formats.whole_model import WholeModel
from albef_ds.checkpoint.initial.between_tasks import POSITION_EMBEDDING, resize_position_embedding, transplant
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.common.errors import ConfigError, WeightsError
from albef_ds.config.schema import RunConfig
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.tasks.base import Task
from albef_ds.tasks.registry import kind_of

_ENCODER = re.compile(r"base\.albef\.\w+_encoder\..*")
"""What must find a place here. The rest of another task's model is its heads, which may be left over."""


def load_pretrained(task: Task, config: RunConfig, access: ParameterAccess = WHOLE) -> str:
    """Fill the student from `init.checkpoint`; returns a line for the log.

    Args:
        task: changed in place.
        config: of the run that begins.
        access: how the task's parameters are written.

    Raises:
        UserError: no whole model there, or one whose layers do not fit.
    """
    path = Path(config.init.checkpoint)
    found = read_model(path, like=config.model)
    _same_heads(found.model, config, path)
    own = {name: tuple(access.shape(parameter)) for name, parameter in task.named_parameters()}
    state, new, left_over = _fitted(found.model.student, found.model, config, own, path)
    for name, parameter in task.named_parameters():
        if name in state:
            access.write(parameter, _read(name, state[name], own[name]))
    count = sum(_numel(own[name]) for name in state)
    total = sum(_numel(shape) for shape in own.values())
    parts = [f"{len(state)} tensors, {count:,} parameters ({count / total:.1%}) of {found.form} {path}"]
    if POSITION_EMBEDDING in state and state[POSITION_EMBEDDING].shape != own[POSITION_EMBEDDING]:
        parts.append(f"position table resized from {state[POSITION_EMBEDDING].shape[1] - 1} patches")
    if new:
        parts.append(f"random weights in {_listing(new)}")
    if left_over:
        parts.append(f"not used: {_listing(left_over)}")
    return "; ".join(parts)


def load_pretrained_momentum(task: Task, config: RunConfig) -> str | None:
    """Fill the attached momentum model from that of `init.checkpoint`; returns a line for the log, None where nothing was done.

    Parts that the file's copy lacks are the student's present weights; so is all of it where the file has no copy.
    """
    if not task.has_momentum:
        return None
    found = read_model(config.init.checkpoint, like=config.model)
    copy = {BASE + name.removeprefix(MOMENTUM): tensor for name, tensor in found.model.part(MOMENTUM).items()}
    if not copy:
        return "momentum model: equal to the student, the checkpoint has none"
    whole = {BASE + name: tensor for name, tensor in task.momentum.full_state_dict().items()}
    own = {name: tuple(tensor.shape) for name, tensor in whole.items()}
    state, new, _ = _fitted(copy, found.model, config, own, Path(config.init.checkpoint), partial=True)
    whole |= {name: _read(name, tensor, own[name]).float() for name, tensor in state.items()}
    for name, first in _tied(task).items():
        if name in whole:
            whole[name] = whole[first]
    task.momentum.load_full_state_dict({name.removeprefix(BASE): tensor for name, tensor in whole.items()})
    return f"momentum model: {len(state)} tensors from the checkpoint" + (f", {len(new)} from the student" if new else "")


def _fitted(
    tensors: dict[str, LazyTensor],
    model: WholeModel,
    config: RunConfig,
    own: dict[str, tuple[int, ...]],
    path: Path,
    *,
    partial: bool = False,
) -> tuple[dict[str, LazyTensor], list[str], list[str]]:
    """The model's tensors for the names and shapes of `own`; names without a tensor, and tensors without a name."""
    state = transplant(tensors, model.config.task, config.task)
    fix = "the settings in model must be those that the checkpoint was made with (model.vision.image_size may differ)"
    new_heads = kind_of(config.task).new_heads
    for name in [name for name in state if name in own and tuple(state[name].shape) != own[name]]:
        if name.startswith(new_heads):  # another number of classes
            del state[name]
        elif name != POSITION_EMBEDDING:
            shapes = f"shape {tuple(state[name].shape)}, here {own[name]}"
            raise WeightsError(f"{path}: {name} has {shapes}: {fix}")
    new = [name for name in own if name not in state]
    left_over = [name for name in state if name not in own]
    if refused := [name for name in new if not partial and not name.startswith(new_heads)]:
        hint = "" if model.kind == config.task.kind else f"a model of kind {model.kind} does not serve {config.task.kind}, or "
        raise WeightsError(f"{path} lacks {len(refused)} tensors, first {refused[0]}: {hint}{fix}")
    if refused := [name for name in left_over if _ENCODER.fullmatch(name)]:
        raise WeightsError(f"{path} holds {len(refused)} tensors without a place here, first {refused[0]}: {fix}")
    return {name: tensor for name, tensor in state.items() if name in own}, new, left_over


def _same_heads(model: WholeModel, config: RunConfig, path: Path) -> None:
    """Shapes do not show the number of heads, so that another one would load and compute something else."""
    for part in ("vision", "text"):
        theirs, ours = (getattr(settings, part).num_heads for settings in (model.config.model, config.model))
        if theirs != ours:
            raise ConfigError(f"{path} has model.{part}.num_heads={theirs}, this run {ours}: set model.{part}.num_heads={theirs}")


def _read(name: str, tensor: LazyTensor, shape: tuple[int, ...]) -> Tensor:
    whole = tensor.read()
    return resize_position_embedding(whole.float(), shape[1]) if name == POSITION_EMBEDDING else whole


def _tied(task: Task) -> dict[str, str]:
    """Further names of tied parameters of `task.base` -> their first name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in task.base.named_parameters(prefix=BASE.rstrip("."), remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        first.setdefault(id(parameter), name)
    return tied


def _numel(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _listing(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(".".join(name.removeprefix(BASE).split(".")[:2]) for name in names))
