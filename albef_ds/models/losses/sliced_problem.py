"""The arguments of the sliced soft-target cross-entropy (student, teacher, positives), for its torch and Triton forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from albef_ds.models.precision import at_least_fp32


@dataclass(frozen=True)
class FeatureTeacher:
    """Teacher logits that are also similarities: scale * (features . w_c), with the student's columns and scale."""

    features: Tensor
    """(R, D)."""

    def logits(self, columns: slice, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns (R, C) for a slice of columns whose `weight` is (C, D)."""
        return scaled_logits(self.features, weight, scale)


@dataclass(frozen=True)
class LogitTeacher:
    """Teacher logits that are given directly."""

    values: Tensor
    """(R, all columns)."""

    def logits(self, columns: slice, weight: Tensor, scale: Tensor) -> Tensor:
        """Returns (R, C) for a slice of columns."""
        return at_least_fp32(self.values[:, columns])


Teacher = FeatureTeacher | LogitTeacher


@dataclass(frozen=True)
class Positives:
    """The ground-truth columns, as a mask or one label per row."""

    mask: Tensor | None = None
    """bool (R, columns), at least one true per row."""
    labels: Tensor | None = None
    """int64 (R,)."""

    def part(self, columns: slice) -> Tensor:
        """Returns bool (R, C) for a slice of columns."""
        if self.mask is not None:
            return self.mask[:, columns]
        assert self.labels is not None
        return self.labels[:, None] == torch.arange(columns.start, columns.stop, device=self.labels.device)


@dataclass(frozen=True)
class Problem:
    """The arguments of the loss; see `soft_cross_entropy`."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    scale: Tensor
    positives: Positives
    teacher: Teacher | None


@dataclass(frozen=True)
class Sums:
    """Sums over all columns for each row, (R,) each."""

    log_sum: Tensor
    """lse(s)."""
    positive_sum: Tensor
    """Sum of s over the positives."""
    num_positives: Tensor
    """Number of positives."""
    teacher_log_sum: Tensor | None = None
    """lse of the teacher's logits."""
    teacher_mean: Tensor | None = None
    """E_teacher[s]."""


def scaled_logits(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns scale * (x . w_c) + b_c, (R, C), fp32 or better, of `x` (R, D), `weight` (C, D), `scale` (1,), `bias` (C,)."""
    logits = at_least_fp32(x @ weight.T.to(x.dtype)) * scale
    return logits if bias is None else logits + bias


def slices(total: int, size: int) -> Iterator[slice]:
    """Yields consecutive slices of `size` columns that cover `total`; the last may be shorter."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
