"""Fills a model or a momentum model with named tensors: all are checked first, then read and written one at a time.

`names.py` translates the names in files, `initial/between_tasks.py` those of other tasks.
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
"""The rule that allows no exception."""


@dataclass(frozen=True)
class Rules:
    """The differences allowed between a model and its tensors, and the texts of errors about others."""

    fix: str
    """The action for the user."""
    may_lack: Callable[[str], object] = NEVER
    """True for names of model tensors that may keep their current weights."""
    may_remain: Callable[[str], object] = NEVER
    """True for names of tensors that may stay unused."""
    if_lacking: str = ""
    """Text before `fix` if tensors are missing."""
    model: str = "the model"
    """The model's name in messages."""


@dataclass(frozen=True)
class LoadReport:
    """The result of filling a model."""

    tensors: int
    """Number of tensors used."""
    parameters: int
    """Number of elements in them."""
    share_of_parameters: float
    """`parameters` divided by the number to be filled."""
    missing_allowed: tuple[str, ...] = ()
    """Model tensors that keep their weights."""
    left_over_allowed: tuple[str, ...] = ()
    """Unused tensors."""
    remarks: tuple[str, ...] = ()
    """Further remarks for the log."""

    @property
    def counts(self) -> str:
        """The amount filled, as text."""
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
    """Compares the tensors with the names and shapes of a model.

    Returns names in `shapes` without a tensor, and names of unused tensors, all within the rules. Raises WeightsError, which
    names `source`, the tensors and the fix, if a tensor is missing, left over or of another shape.
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
    """Sets parameters to the tensors of the same names.

    Args:
        parameters: with their names, such as `task.named_parameters()`; changed in place.
        found: the tensors.
        source: their origin, for messages.
        rules: parameters and tensors that may stay without the other.
        access: writes the parameters.
        remarks: for the report.

    Raises:
        WeightsError: as `check_fit`; no parameter is changed then.
    """
    own = dict(parameters)
    shapes = {name: access.shape(parameter) for name, parameter in own.items()}
    missing, left_over = check_fit(shapes, found, source, rules)
    for name, parameter in own.items():
        if name in found.tensors:
            access.write(parameter, found.tensors[name].read())
    return _report(shapes, missing, left_over, remarks)


def fill_momentum(task: Task, found: NamedTensors, source: str, rules: Rules, access: ParameterAccess = WHOLE) -> LoadReport:
    """Sets the attached momentum model to tensors under the names of `task.named_parameters()`; otherwise as `fill`.

    Missing tensors that are allowed keep their weights. A frozen part stays the student's. All ranks call it together.
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
    """The unique names, shortened to their first parts, with layer numbers as `*`."""
    short = {re.sub(r"\.\d+\.", ".*.", name): None for name in names}
    return ", ".join({".".join(name.split(".")[:4]): None for name in short})
