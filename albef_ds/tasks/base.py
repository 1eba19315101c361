"""What every task is to the engine and the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from albef_ds.models.albef import ALBEF
from albef_ds.models.feature_queue import FeatureQueue
from albef_ds.models.momentum import Momentum

_Number = TypeVar("_Number", float, Tensor)


class Task(nn.Module):
    """A model with an objective.

    `base` is a `ModuleDict` of everything that has a momentum copy; what is not distilled sits beside it. The momentum
    model and the feature queue are attributes outside the module tree, since an engine would cast or shard them.
    `forward(batch, **schedule)` returns `(losses, metrics)`: scalar tensors that `total` adds up, and scalar tensors for the
    log. A loss that takes no part at this point of the schedule is left out.
    """

    base: nn.ModuleDict
    queue: FeatureQueue | None = None
    """The feature queue that `attach_queue` was given."""
    _momentum: Momentum | None = None

    @property
    def model(self) -> ALBEF:
        """The student."""
        return albef_of(self.base)

    @property
    def has_momentum(self) -> bool:
        """Whether a momentum model is attached; a task that computes nothing from one has none."""
        return self._momentum is not None

    @property
    def momentum(self) -> Momentum:
        """The momentum model that `attach_momentum` was given."""
        assert self._momentum is not None, "no momentum model is attached"
        return self._momentum

    @contextlib.contextmanager
    def momentum_modules(self, reference: Tensor) -> Iterator[nn.ModuleDict]:
        """The momentum copy for a forward pass without gradients, computing no more precisely than `reference` was."""
        modules = self.momentum.modules
        dtype = next(modules.parameters()).dtype
        # A copy kept in fp32 beside a student cast to bf16 computes in bf16 as well: they may share frozen weights.
        cast = dtype.itemsize > reference.dtype.itemsize
        with torch.no_grad(), torch.autocast(reference.device.type, reference.dtype) if cast else contextlib.nullcontext():
            yield modules

    def attach_momentum(self, momentum: Momentum) -> None:
        """Give the task its momentum model, built over `self.base`."""
        self._momentum = momentum

    def attach_queue(self, queue: FeatureQueue) -> None:
        """Give the task its feature queue."""
        object.__setattr__(self, "queue", queue)  # nn.Module would take it into the module tree

    def schedule(self, epoch: float) -> dict[str, float]:
        """Keyword arguments of `forward` at `epoch` (fractional, from 0)."""
        raise NotImplementedError

    def loss_weights(self) -> dict[str, float]:
        """Weights of the losses in what is minimised; 1 where a name is not listed."""
        return {}

    def total(self, losses: Mapping[str, _Number]) -> _Number:
        """What is minimised: the weighted sum of the losses, tensors or plain numbers."""
        weights = self.loss_weights()
        terms = [loss * weights.get(name, 1.0) for name, loss in losses.items()]
        return sum(terms[1:], start=terms[0])

    def after_step(self) -> None:
        """Called after an optimizer step that was taken."""

    def after_skipped_step(self) -> None:
        """Called instead of `after_step` when the optimizer step was skipped."""

    def bounded_parameters(self) -> list[tuple[nn.Parameter, float, float]]:
        """Parameters to be clamped after each step, with their bounds."""
        return []

    def move_outside(self, device: torch.device) -> None:
        """Move what lives outside the module tree."""
        for part in (self._momentum, self.queue):
            if part is not None:
                part.to(device)


def albef_of(modules: nn.ModuleDict) -> ALBEF:
    """The model in a task's `base`, or in the momentum copy of it."""
    albef = modules["albef"]
    assert isinstance(albef, ALBEF)
    return albef


Losses = dict[str, Tensor]
Metrics = dict[str, Tensor]
