"""The momentum model: an exponential moving average of the student's weights (paper section 3.3, m = 0.995).

This module has the interface and the dense reference; the sharded form is in `engine/zero/momentum.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn


class Momentum(Protocol):
    """A momentum copy of `student`, a `ModuleDict` with the same keys.

    It is kept outside the task's module tree, where an engine would cast, shard or optimize it.
    """

    @property
    def modules(self) -> nn.ModuleDict:
        """The copied modules, ready for a forward pass without gradients."""
        ...

    def update(self) -> None:
        """Sets copy = m * copy + (1 - m) * student. Call it once after each optimizer step that was not skipped."""
        ...

    def copy_from_student(self) -> None:
        """Sets the copy to the student's current weights."""
        ...

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yields name and full weights of the averaged parameters, one at a time; all ranks iterate together."""
        ...

    def full_state_dict(self) -> dict[str, Tensor]:
        """Returns the full copy in fp32 by the student's names, on every rank."""
        ...

    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Sets the copy from full tensors by the student's names; frozen parameters may be missing."""
        ...

    def to(self, device: torch.device) -> None:
        """Moves the copy's storage."""
        ...


def momentum_copy(student: nn.ModuleDict, *, dropout: bool = False, hollow: bool = False) -> nn.ModuleDict:
    """Returns a deep copy of `student` without gradients that shares the frozen submodules, whose average never changes.

    In eval mode, or with `dropout` in train mode as in the released code. With `hollow` its parameters are empty, so that the
    weights are never held twice.
    """
    # deepcopy takes entries of the memo as already copied, so it keeps the frozen ones themselves.
    memo: dict[int, object] = {}
    for parameter in student.parameters():
        if not parameter.requires_grad:
            memo[id(parameter)] = parameter
        elif hollow:
            memo[id(parameter)] = nn.Parameter(torch.empty(0), requires_grad=False)
    for module in student.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            memo[id(module)] = module
    momentum = copy.deepcopy(student, memo)
    for parameter in momentum.parameters():
        parameter.requires_grad_(False)
    return momentum.train(dropout)


def unit_modules(module: nn.Module, prefix: str = "") -> list[tuple[str, nn.Module]]:
    """Returns the modules that a sharded copy gathers at once: members of a `ModuleList`, and modules that contain none."""
    if not any(isinstance(child, nn.ModuleList) for child in module.modules()):
        return [(prefix, module)]
    bare = [name for name, _ in module.named_parameters(recurse=False)]
    assert not bare, f"{prefix} holds {bare} outside of any unit: put them into a module of their own"
    units = []
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        units += [(path, child)] if isinstance(module, nn.ModuleList) else unit_modules(child, path)
    return units


class DenseMomentum(Momentum):
    """The reference: a full copy on every rank, in the student's initial dtype (fp32)."""

    def __init__(self, student: nn.ModuleDict, decay: float, *, dropout: bool = False) -> None:
        self.student = student
        self.decay = decay
        self._modules = momentum_copy(student, dropout=dropout)

    @property
    def modules(self) -> nn.ModuleDict:
        return self._modules

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        students = dict(self.student.named_parameters())
        return [(copied, students[name]) for name, copied in self._modules.named_parameters() if copied is not students[name]]

    @torch.no_grad()
    def update(self) -> None:
        """See `Momentum.update`. One fused pass over all tensors."""
        pairs = self._pairs()
        if pairs:
            students = [student.detach().to(momentum.dtype) for momentum, student in pairs]
            torch._foreach_lerp_([momentum for momentum, _ in pairs], students, 1.0 - self.decay)

    @torch.no_grad()
    def copy_from_student(self) -> None:
        for momentum, student in self._pairs():
            momentum.copy_(student)

    def parameters(self) -> Iterator[tuple[str, Tensor]]:
        students = dict(self.student.named_parameters())
        for name, momentum in self._modules.named_parameters():
            if momentum is not students[name]:
                yield name, momentum.detach()

    def full_state_dict(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._modules.state_dict().items()}

    @torch.no_grad()
    def load_full_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, momentum in self.parameters():
            if state[name].shape != momentum.shape:
                raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(momentum.shape)}")
            momentum.copy_(state[name])

    def to(self, device: torch.device) -> None:
        self._modules.to(device)
