"""Run in a process of its own with TRITON_INTERPRET=1, which Triton reads when it is imported."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from albef_ds.kernels.soft_cross_entropy import FeatureTeacher, Positives, soft_cross_entropy
from albef_ds.kernels.triton_contrast import contrast


def check(rows: int, width: int, total: int, alpha: float) -> float:
    """Largest deviation of loss and gradients from the sliced form in fp64."""
    generator = torch.Generator().manual_seed(rows)
    x, teacher, keys = (F.normalize(torch.randn(n, width, generator=generator), dim=1) for n in (rows, rows, total))
    mask = torch.rand(rows, total, generator=generator) < 0.02
    mask[torch.arange(rows), torch.arange(rows)] = True
    rates = torch.rand(rows, generator=generator)
    found = []
    for exact in (False, True):
        kind = torch.float64 if exact else torch.float32
        own, scale = x.detach().clone().to(kind).requires_grad_(), torch.full((1,), 1 / 0.07, dtype=kind, requires_grad=True)
        if exact:
            guide = FeatureTeacher(teacher.to(kind)) if alpha else None
            loss = soft_cross_entropy(own, keys.to(kind), None, scale, Positives(mask=mask), guide, alpha)
        else:
            loss = contrast(own, teacher, keys, mask, scale, alpha)
        torch.autograd.backward((loss * rates.to(kind)).sum())
        found.append([loss.detach().double(), own.grad.double(), scale.grad.double()])  # type: ignore[union-attr]
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


if __name__ == "__main__":
    for arguments in ((5, 24, 300, 0.4), (17, 32, 130, 0.0), (16, 16, 64, 0.4)):
        print(arguments, check(*arguments))
        assert check(*arguments) < 2e-5, arguments
