"""Counts the parameters of the real model on the meta device, without allocating weights.

`training_state.py` computes an engine's memory from them, `activations.py` the activations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from albef_ds.config.schema import RunConfig
from albef_ds.engine.optim import parameter_groups
from albef_ds.models.momentum import unit_modules
from albef_ds.models.shapes import without_memory
from albef_ds.tasks.pretrain import PretrainTask


@dataclass(frozen=True)
class ModelCounts:
    """Elements of every parameter of a task, by their use."""

    groups: tuple[tuple[int, ...], ...]
    """Elements of each trainable parameter, per optimizer group."""
    frozen: tuple[int, ...]
    """Elements of each parameter that is not trained."""
    units: tuple[tuple[int, ...], ...]
    """Elements of each trainable parameter that a momentum unit stores."""
    largest_unit: int
    """Elements of the largest momentum unit while it is whole, borrowed parameters included."""
    unit_names: tuple[str, ...] = ()
    """The module of each unit."""
    borrowed: tuple[tuple[int, ...], ...] = ()
    """Elements of each trainable parameter that a unit needs and an earlier unit stores."""

    @property
    def trainable(self) -> int:
        """Trainable elements."""
        return sum(map(sum, self.groups))

    @property
    def total(self) -> int:
        """All elements."""
        return self.trainable + sum(self.frozen)

    @property
    def parameters(self) -> list[int]:
        """Elements of each parameter, trainable ones first."""
        return [*(numel for group in self.groups for numel in group), *self.frozen]


def count(config: RunConfig) -> ModelCounts:
    """Builds the task of `config` on the meta device and counts its parameters."""
    # The queue is left out: its size is computed, and its random start would be the only large tensor.
    settings = replace(config.pretraining(), queue_size=0)
    with without_memory():
        task = PretrainTask(config.model, config.compute, settings)
    groups = parameter_groups(task, config.optim, compat=config.task.compat)
    units: list[tuple[int, ...]] = []
    borrowed: list[tuple[int, ...]] = []
    largest, owned = 0, set()
    modules = dict(unit_modules(task.base))
    for module in modules.values():
        trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
        largest = max(largest, sum(parameter.numel() for parameter in trainable))
        units.append(tuple(parameter.numel() for parameter in trainable if id(parameter) not in owned))
        borrowed.append(tuple(parameter.numel() for parameter in trainable if id(parameter) in owned))
        owned |= {id(parameter) for parameter in trainable}
    return ModelCounts(
        groups=tuple(tuple(parameter.numel() for parameter in group["params"]) for group in groups),
        frozen=tuple(parameter.numel() for parameter in task.parameters() if not parameter.requires_grad),
        units=tuple(units),
        largest_unit=largest,
        unit_names=tuple(modules),
        borrowed=tuple(borrowed),
    )
