"""The base class of all tasks: their interface for the engine and the trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from albef_ds.models.albef import ALBEF
from albef_ds.models.feature_queue import FeatureQueue
from albef_ds.models.momentum import Momentum

_Number = TypeVar("_Number", float, Tensor)


class Task(nn.Module):
    """A model with an objective.

    `base` is a `ModuleDict` of the modules with a momentum copy; other modules are attributes beside it. The momentum model and
    the feature queue are attributes outside the module tree, since an engine would cast or shard them. `forward(batch,
    **schedule)` returns `(losses, metrics)`: scalar tensors that `total` adds up, and scalar tensors for the log. Losses that are
    not part of the current schedule are left out.
    """

    base: nn.ModuleDict
    _momentum: Momentum | None = None
    _queue: FeatureQueue | None = None
    _arriving: Callable[[], None] | None = None
    """Waits for the features of the last step, which are on their way, and adds them to the queue."""

    @property
    def model(self) -> ALBEF:
        """The student."""
        return albef_of(self.base)

    @property
    def queue(self) -> FeatureQueue | None:
        """The feature queue that `attach_queue` was given, with the features of every step so far."""
        if self._arriving is not None:
            finish, self._arriving = self._arriving, None
            finish()
        return self._queue

    @property
    def has_momentum(self) -> bool:
        """True if a momentum model is attached; a task that does not use one has none."""
        return self._momentum is not None

    @property
    def momentum(self) -> Momentum:
        """The momentum model that `attach_momentum` was given."""
        assert self._momentum is not None, "no momentum model is attached"
        return self._momentum

    @contextlib.contextmanager
    def momentum_modules(self, reference: Tensor) -> Iterator[nn.ModuleDict]:
        """Yields the momentum modules for a forward pass without gradients, at most in the precision of `reference`."""
        modules = self.momentum.modules
        dtype = next(modules.parameters()).dtype
        # A copy in fp32 of a student cast to bf16 computes in bf16 too, since they may share frozen weights.
        cast = dtype.itemsize > reference.dtype.itemsize
        with torch.no_grad(), torch.autocast(reference.device.type, reference.dtype) if cast else contextlib.nullcontext():
            yield modules

    def attach_momentum(self, momentum: Momentum) -> None:
        """Sets the task's momentum model, built from `self.base`."""
        self._momentum = momentum

    def attach_queue(self, queue: FeatureQueue) -> None:
        """Sets the task's feature queue."""
        object.__setattr__(self, "_queue", queue)  # nn.Module would add it to the module tree

    def schedule(self, epoch: float) -> dict[str, float]:
        """Returns the keyword arguments of `forward` at `epoch` (fractional, from 0)."""
        raise NotImplementedError

    def loss_weights(self) -> dict[str, float]:
        """Returns the weights of the losses in the total; 1 for a missing name."""
        return {}

    def total(self, losses: Mapping[str, _Number]) -> _Number:
        """Returns the loss to minimise, the weighted sum of `losses`, which are tensors or numbers."""
        weights = self.loss_weights()
        terms = [loss * weights.get(name, 1.0) for name, loss in losses.items()]
        return sum(terms[1:], start=terms[0])

    def after_step(self) -> None:
        """Called after each optimizer step that was not skipped."""

    def after_skipped_step(self) -> None:
        """Called instead of `after_step` if the optimizer step was skipped."""

    def bounded_parameters(self) -> list[tuple[nn.Parameter, float, float]]:
        """Returns parameters to clamp after each step, with their bounds."""
        return []

    def move_outside(self, device: torch.device) -> None:
        """Moves the momentum model and the queue, which are outside the module tree."""
        for part in (self._momentum, self.queue):
            if part is not None:
                part.to(device)


def albef_of(modules: nn.ModuleDict) -> ALBEF:
    """Returns the model in a task's `base` or in its momentum copy."""
    albef = modules["albef"]
    assert isinstance(albef, ALBEF)
    return albef


Losses = dict[str, Tensor]
Metrics = dict[str, Tensor]
