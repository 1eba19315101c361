"""The update of the momentum model's shards, by `compute.momentum_update`. Every form gives the same bits.

A copy of value and residual is read and written once by the C loop and by the Triton kernel, and about seven times by torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from albef_ds.engine.zero import momentum_loop
from albef_ds.engine.zero.momentum_loop import Triple
from albef_ds.engine.zero.momentum_storage import Storage, ValueResidual


@dataclass(frozen=True)
class Part:
    """A range of a storage and the student's weights for it."""

    storage: Storage
    start: int
    student: Tensor
    """(n,), on the storage's device."""

    def triple(self) -> Triple:
        """Returns the student's weights, and value and residual of their copy."""
        assert isinstance(self.storage, ValueResidual)
        return self.student, *self.storage.parts(self.start, self.student.numel())


Update = Callable[[Sequence[Part], float], None]
"""Sets the copies to decay * copy + (1 - decay) * student."""


def update_in_torch(parts: Sequence[Part], decay: float) -> None:
    """Updates part by part by the storage's own operations, for every storage and device."""
    for part in parts:
        part.storage.average(part.student, decay, part.start)


def update_in_one_pass(parts: Sequence[Part], decay: float) -> None:
    """Updates in C what the C loop can update, and the rest in torch."""
    fast, rest = list[Part](), list[Part]()
    for part in parts:
        suits = isinstance(part.storage, ValueResidual) and momentum_loop.can_average(part.student)
        (fast if suits else rest).append(part)
    momentum_loop.average([part.triple() for part in fast], decay)
    update_in_torch(rest, decay)


def _triton() -> Update:
    from albef_ds.engine.zero.momentum_triton import TritonUpdate  # optional package, and slow to start (start-up)

    update = TritonUpdate()
    return lambda parts, decay: update([part.triple() for part in parts], decay)


UPDATES: dict[str, Callable[[], Update]] = {
    "auto": lambda: update_in_one_pass,
    "torch": lambda: update_in_torch,
    "triton": _triton,
}
"""Makers of the forms, by the values of `compute.momentum_update`."""
