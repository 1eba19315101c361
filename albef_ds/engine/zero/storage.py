"""How a shard of the momentum model is kept: the choice of numbers behind an average that moves by tiny steps.

At m = 0.995 one update is 0.005 x (student - copy), below half an fp16 ulp whenever the two differ by less than about 5% of
the weight: fp16 rounded to nearest stands still. `ValueResidual` keeps what rounding would lose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

_CPU_CHUNK = 2**16
"""Weights averaged at a time on a CPU: intermediate values then stay in its cache (twice as fast at 6M weights)."""
RESIDUAL_SCALE = 2.0**12
"""An fp16 rounding error is at most 2^-11 of its value; scaled by this, it uses the range of fp16 as the value does."""


class Storage(Protocol):
    """A flat vector of weights that is averaged in place."""

    travelling: Tensor
    """(S,) what other ranks receive and the forward pass sees."""

    def read(self) -> Tensor:
        """(S,) fp32, everything the storage knows."""
        ...

    def write(self, weights: Tensor) -> None:
        """Store fp32 weights (S,)."""
        ...

    def average(self, student: Tensor, decay: float) -> None:
        """decay * self + (1 - decay) * student, fp32 (S,)."""
        ...

    def to(self, device: torch.device) -> None:
        """Move to `device`."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        ...


class Fp32:
    """Plain fp32, 4 bytes per weight: the yardstick."""

    def __init__(self, size: int) -> None:
        self.travelling = torch.zeros(size)

    def read(self) -> Tensor:
        """See `Storage.read`."""
        return self.travelling.clone()

    def write(self, weights: Tensor) -> None:
        """See `Storage.write`."""
        self.travelling.copy_(weights)

    def average(self, student: Tensor, decay: float) -> None:
        """See `Storage.average`."""
        self.travelling.lerp_(student, 1.0 - decay)

    def to(self, device: torch.device) -> None:
        """See `Storage.to`."""
        self.travelling = self.travelling.to(device)

    @property
    def num_bytes(self) -> int:
        """See `Storage.num_bytes`."""
        return self.travelling.nbytes


class Fp16Nearest:
    """fp16 rounded to nearest, 2 bytes per weight. Kept to show that it does not follow (tests/engine/zero/test_drift.py)."""

    def __init__(self, size: int) -> None:
        self.travelling = torch.zeros(size, dtype=torch.float16)

    def read(self) -> Tensor:
        """See `Storage.read`."""
        return self.travelling.float()

    def write(self, weights: Tensor) -> None:
        """See `Storage.write`."""
        self.travelling.copy_(weights)

    def average(self, student: Tensor, decay: float) -> None:
        """See `Storage.average`."""
        self.write(self.read().lerp_(student, 1.0 - decay))

    def to(self, device: torch.device) -> None:
        """See `Storage.to`."""
        self.travelling = self.travelling.to(device)

    @property
    def num_bytes(self) -> int:
        """See `Storage.num_bytes`."""
        return self.travelling.nbytes


class Fp16Stochastic(Fp16Nearest):
    """fp16 rounded up or down at random, right on average, 2 bytes per weight."""

    def average(self, student: Tensor, decay: float) -> None:
        """See `Storage.average`."""
        exact = self.read().lerp_(student, 1.0 - decay)
        nearest = exact.half()
        error = exact - nearest.float()
        towards = torch.where(error > 0, torch.inf, -torch.inf).to(nearest.dtype)
        neighbour = torch.nextafter(nearest, towards)
        gap = (neighbour.float() - nearest.float()).abs()
        away = torch.rand_like(exact) * gap < error.abs()
        self.travelling.copy_(torch.where(away, neighbour, nearest))


def _sum(value: Tensor, residual: Tensor) -> Tensor:
    return value.float().add_(residual.float(), alpha=1.0 / RESIDUAL_SCALE)


def _split(weights: Tensor, value: Tensor, residual: Tensor) -> None:
    # The residual's own rounding can carry the sum over a midpoint between two values. A checkpoint holds the sum, so
    # splitting the sum again must change nothing.
    for exact in (weights, None):
        exact = _sum(value, residual) if exact is None else exact
        value.copy_(exact)
        residual.copy_((exact - value.float()).mul_(RESIDUAL_SCALE))


class ValueResidual(Fp16Nearest):
    """An fp16 value that travels and an fp16 residual that stays, 4 bytes per weight with an error like fp32's."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.residual = torch.zeros(size, dtype=torch.float16)

    def read(self) -> Tensor:
        """See `Storage.read`."""
        return _sum(self.travelling, self.residual)

    def write(self, weights: Tensor) -> None:
        """See `Storage.write`."""
        _split(weights, self.travelling, self.residual)

    def average(self, student: Tensor, decay: float) -> None:
        """See `Storage.average`."""
        size = _CPU_CHUNK if student.device.type == "cpu" else max(student.numel(), 1)
        parts = (torch.split(tensor, size) for tensor in (student, self.travelling, self.residual))
        for weights, value, residual in zip(*parts, strict=True):
            _split(_sum(value, residual).lerp_(weights, 1.0 - decay), value, residual)

    def to(self, device: torch.device) -> None:
        """See `Storage.to`."""
        super().to(device)
        self.residual = self.residual.to(device)

    @property
    def num_bytes(self) -> int:
        """See `Storage.num_bytes`."""
        return self.travelling.nbytes + self.residual.nbytes


STORAGES: dict[str, Callable[[int], Storage]] = {
    "value_residual": ValueResidual,
    "fp32": Fp32,
    "fp16_stochastic": Fp16Stochastic,
    "fp16_nearest": Fp16Nearest,
}
"""`engine.momentum_storage` to class; `dense` is `albef_ds.models.momentum.DenseMomentum`."""
