"""Copies and students with every kind of number, at every alignment, for the tests of the forms of the momentum update."""

from __future__ import annotations

import torch
from torch import Tensor

from albef_ds.engine.zero.momentum_storage import ValueResidual

SIZES = (1, 7, 8, 15, 16, 17, 33, 1003, 70_001)
KINDS = (torch.float32, torch.float16, torch.bfloat16)
DECAYS = (0.995, 0.9, 0.5, 0.3, 0.0, 1.0)
ODD = [0.0, -0.0, 6e-8, -6e-8, 3e-8, 1e-40, 6.1e-5, 65504.0, -65504.0, 65520.0, 1e20, torch.inf, -torch.inf, torch.nan]
"""Zeros, fp16's and fp32's denormal numbers, fp16's largest and what rounds beyond it, and what is no number."""


def numbers(size: int, seed: int, kind: torch.dtype = torch.float32, offset: int = 0) -> Tensor:
    """Returns (size,): weights over many magnitudes with odd numbers between them, `offset` elements off its memory's start."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(size + offset, generator=generator) * 10.0 ** torch.randint(-9, 2, (size + offset,), generator=generator)
    odd = torch.tensor(ODD)[torch.randint(0, len(ODD), (size + offset,), generator=generator)]
    return torch.where(torch.rand(size + offset, generator=generator) < 0.1, odd, wide).to(kind)[offset:]


def stored(size: int, seed: int, offset: int = 0) -> tuple[Tensor, Tensor]:
    """Returns value and residual (size,) of some weights; those of a real copy, so that the sum splits into the same two."""
    storage = ValueResidual(size + offset)
    storage.write(numbers(size + offset, seed))
    return storage.parts(offset, size)


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Returns whether fp16 numbers are equal to the bit; of what is no number, only the place counts."""
    unlike = ours.view(torch.int16) != theirs.view(torch.int16)
    return not bool((unlike & ~(ours.isnan() & theirs.isnan())).any())
