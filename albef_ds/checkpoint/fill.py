"""Fills a model or a momentum model with named tensors: all are checked first, then read and written one at a time.

Not responsible for the names that tensors have in a file (`names.py`), or for turning those of one task into those of another
(`initial/between_tasks.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from albef_ds.checkpoint.names import BASE, NamedTensors
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor, TensorsOnDemand, listing
from albef_ds.common.errors import WeightsError
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.tasks.base import Task

NEVER = re.compile("(?!)").fullmatch
"""The rule without an exception."""


@dataclass(frozen=True)
class Rules:
    """What may stay open between a model and the tensors for it, and what is said where more does."""

    fix: str
    """What the user can do."""
    may_lack: Callable[[str], object] = NEVER
    """Whether the model's tensor of this name may keep its present weights."""
    may_remain: Callable[[str], object] = NEVER
    """Whether a tensor of this name may stay unused."""
    if_lacking: str = ""
    """Stands before `fix` where tensors are missing."""
    model: str = "the model"
    """The model's name in messages."""


@dataclass(frozen=True)
class LoadReport:
    """What was filled, and what was not."""

    tensors: int
    """Tensors taken."""
    parameters: int
    """Numbers in them."""
    share_of_parameters: float
    """`parameters` over those that were to be filled."""
    missing_allowed: tuple[str, ...] = ()
    """Tensors of the model that keep their weights."""
    left_over_allowed: tuple[str, ...] = ()
    """Tensors without use."""
    remarks: tuple[str, ...] = ()
    """What else a reader of the log should know."""

    @property
    def counts(self) -> str:
        """How much was filled."""
        return f"{self.tensors} tensors, {self.parameters:,} parameters ({self.share_of_parameters:.1%})"

    def __str__(self) -> str:
        parts = [self.counts, *self.remarks]
        if self.missing_allowed:
            parts.append(f"{len(self.missing_allowed)} not in the file keep random weights: {_summary(self.missing_allowed)}")
        if self.left_over_allowed:
            parts.append(f"{len(self.left_over_allowed)} of the file unused: {_summary(self.left_over_allowed)}")
        return "; ".join(parts)


def check_fit(
    shapes: Mapping[str, tuple[int, ...]], found: NamedTensors, source: str, rules: Rules
) -> tuple[list[str], list[str]]:
    """Hold the tensors against the names and shapes of a model.

    Returns:
        Names in `shapes` without a tensor, and names of tensors without a place, all within the rules.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape; names `source`, the tensors and the fix.
    """
    missing = [name for name in shapes if name not in found.tensors]
    if refused := [name for name in missing if not rules.may_lack(name)]:
        what = f"{len(refused)} tensors of {rules.model} ({listing(refused)})"
        raise WeightsError(f"{source} lacks {what}: {rules.if_lacking}{rules.fix}")
    left_over = [name for name in found.tensors if name not in shapes] + list(found.left_over)
    if refused := [name for name in left_over if not rules.may_remain(name)]:
        what = f"{len(refused)} tensors without a place in {rules.model} ({listing(refused)})"
        raise WeightsError(f"{source} holds {what}: {rules.fix}")
    for name, tensor in found.tensors.items():
        if name in shapes and tensor.shape != shapes[name]:
            there = found.source_names.get(name, name)
            ours = f"{'' if there == name else f'{name} '}in {rules.model} {tuple(shapes[name])}"
            raise WeightsError(f"{source}: {there} has shape {tensor.shape}, {ours}: {rules.fix}")
    return missing, left_over


def fill(
    parameters: Iterable[tuple[str, nn.Parameter]],
    found: NamedTensors,
    source: str,
    rules: Rules,
    access: ParameterAccess = WHOLE,
    remarks: Iterable[str] = (),
) -> LoadReport:
    """Set parameters to the tensors of their names.

    Args:
        parameters: with their names, such as `task.named_parameters()`; changed in place.
        found: the tensors.
        source: where they come from, for messages.
        rules: which parameters and tensors may stay without the other.
        access: how the parameters are written.
        remarks: for the report.

    Raises:
        WeightsError: as `check_fit`; then no parameter was changed.
    """
    own = dict(parameters)
    shapes = {name: access.shape(parameter) for name, parameter in own.items()}
    missing, left_over = check_fit(shapes, found, source, rules)
    for name, parameter in own.items():
        if name in found.tensors:
            access.write(parameter, found.tensors[name].read())
    return _report(shapes, missing, left_over, remarks)


def fill_momentum(task: Task, found: NamedTensors, source: str, rules: Rules, access: ParameterAccess = WHOLE) -> LoadReport:
    """Set the attached momentum model to tensors under the names of `task.named_parameters()`; as `fill` otherwise.

    What may be missing keeps its weights. A frozen part is the student's, whatever the tensors are. All ranks call it together.
    """
    shapes = {name: access.shape(parameter) for name, parameter in task.base.named_parameters(BASE.rstrip("."))}
    missing, left_over = check_fit(shapes, found, source, rules)
    state = {name.removeprefix(BASE): tensor for name, tensor in found.tensors.items()}
    if missing:
        state |= {name: LazyTensor.of(whole) for name, whole in task.momentum.parameters() if BASE + name in missing}
    task.momentum.load_full_state_dict(TensorsOnDemand(state))
    return _report(shapes, missing, left_over)


def _report(
    shapes: Mapping[str, torch.Size], missing: list[str], left_over: list[str], remarks: Iterable[str] = ()
) -> LoadReport:
    count = sum(shape.numel() for name, shape in shapes.items() if name not in missing)
    total = sum(shape.numel() for shape in shapes.values())
    return LoadReport(len(shapes) - len(missing), count, count / total, tuple(missing), tuple(left_over), tuple(remarks))


def _summary(names: Iterable[str]) -> str:
    """Names cut to their first parts, layer numbers as `*`, each once."""
    short = {re.sub(r"\.\d+\.", ".*.", name): None for name in names}
    return ", ".join({".".join(name.split(".")[:4]): None for name in short})
