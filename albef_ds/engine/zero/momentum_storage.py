"""Storage formats of the momentum model's shards, for an average that moves by tiny steps.

At m = 0.995 one update is 0.005 x (student - copy). That is below half an fp16 ulp whenever the two differ by less than about 5%
of the weight, so fp16 rounded to nearest never moves. `ValueResidual` keeps what rounding would lose.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CPU_CHUNK = 2**16
"""Weights averaged at a time on a CPU: intermediate values then stay in its cache (twice as fast at 6M weights)."""
RESIDUAL_SCALE = 2.0**12
"""An fp16 rounding error is at most 2^-11 of its value; scaled by this, it uses the same range of fp16 as the value."""


class Storage:
    """A flat vector of S weights in one precision that is averaged in place."""

    dtype = torch.float32

    def __init__(self, size: int) -> None:
        self.sent = torch.zeros(size, dtype=self.dtype)
        """(S,): the values that other ranks receive and the forward pass uses."""

    def read(self) -> Tensor:
        """Returns the weights (S,) as a new fp32 tensor, as exactly as they are stored."""
        return self.sent.to(torch.float32, copy=True)

    def write(self, weights: Tensor) -> None:
        """Stores fp32 weights (S,)."""
        self.sent.copy_(weights)

    def average(self, student: Tensor, decay: float, start: int = 0) -> None:
        """Stores decay * self + (1 - decay) * student from element `start` on; `student` is (n,), of any floating dtype."""
        part = self.sent.narrow(0, start, len(student))
        part.copy_(part.float().lerp_(student.float(), 1.0 - decay))

    def to(self, device: torch.device) -> None:
        """Moves to `device`."""
        self.sent = self.sent.to(device)

    def tensors(self) -> list[Tensor]:
        """Returns everything that is stored."""
        return [self.sent]

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in self.tensors())


class Fp32(Storage):
    """fp32, 4 bytes per weight: the reference."""

    def average(self, student: Tensor, decay: float, start: int = 0) -> None:
        self.sent.narrow(0, start, len(student)).lerp_(student.float(), 1.0 - decay)


class Fp16Nearest(Storage):
    """fp16 rounded to nearest, 2 bytes per weight. Kept to show that it does not follow (tests/engine/zero/test_drift.py)."""

    dtype = torch.float16


class Fp16Stochastic(Fp16Nearest):
    """fp16 rounded up or down at random, unbiased, 2 bytes per weight. Storages of one history round alike."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._noise: torch.Generator | None = None

    def average(self, student: Tensor, decay: float, start: int = 0) -> None:
        part = self.sent.narrow(0, start, len(student))
        exact = part.float().lerp_(student.float(), 1.0 - decay)
        nearest = exact.half()
        error = exact - nearest.float()
        towards = torch.where(error > 0, torch.inf, -torch.inf).to(nearest.dtype)
        neighbour = torch.nextafter(nearest, towards)
        gap = (neighbour.float() - nearest.float()).abs()
        if self._noise is None or self._noise.device != exact.device:
            self._noise = torch.Generator(exact.device).manual_seed(0)
        drawn = torch.rand(exact.shape, generator=self._noise, device=exact.device)
        away = drawn * gap < error.abs()
        part.copy_(torch.where(away, neighbour, nearest))


def _sum(value: Tensor, residual: Tensor) -> Tensor:
    return value.float().add_(residual.float(), alpha=1.0 / RESIDUAL_SCALE)


def _split(weights: Tensor, value: Tensor, residual: Tensor) -> None:
    # Rounding the residual can move the sum across a midpoint between two values. A checkpoint holds the sum, so splitting
    # the sum again must change nothing.
    for exact in (weights, None):
        exact = _sum(value, residual) if exact is None else exact
        value.copy_(exact)
        residual.copy_((exact - value.float()).mul_(RESIDUAL_SCALE))


def average_in_torch(student: Tensor, value: Tensor, residual: Tensor, decay: float) -> None:
    """The reference of every faster form of the update: sets the copy to decay * copy + (1 - decay) * student.

    `student` is (n,) of any floating dtype, `value` and `residual` are (n,) in fp16. Each operation is a pass of its own.
    """
    size = _CPU_CHUNK if value.device.type == "cpu" else max(len(value), 1)
    parts = (torch.split(tensor, size) for tensor in (student, value, residual))
    for weights, high, low in zip(*parts, strict=True):
        _split(_sum(high, low).lerp_(weights.float(), 1.0 - decay), high, low)


class ValueResidual(Fp16Nearest):
    """An fp16 value, which is sent, and an fp16 residual, which is not: 4 bytes per weight with an error like fp32's."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.residual = torch.zeros(size, dtype=torch.float16)

    def read(self) -> Tensor:
        return _sum(self.sent, self.residual)

    def write(self, weights: Tensor) -> None:
        _split(weights, self.sent, self.residual)

    def average(self, student: Tensor, decay: float, start: int = 0) -> None:
        average_in_torch(student, *self.parts(start, len(student)), decay)

    def parts(self, start: int, size: int) -> tuple[Tensor, Tensor]:
        """Returns views of `size` values and residuals from `start` on."""
        return self.sent.narrow(0, start, size), self.residual.narrow(0, start, size)

    def to(self, device: torch.device) -> None:
        super().to(device)
        self.residual = self.residual.to(device)

    def tensors(self) -> list[Tensor]:
        return [self.sent, self.residual]


STORAGES: dict[str, type[Storage]] = {
    "value_residual": ValueResidual,
    "fp32": Fp32,
    "fp16_stochastic": Fp16Stochastic,
    "fp16_nearest": Fp16Nearest,
}
"""Values of `engine.momentum_storage` and their classes; `dense` is `albef_ds.models.momentum.DenseMomentum`."""
