"""Soft-target cross-entropy from features to loss: a slice of columns at a time, forward and backward.

A row of logits is s = scale * (x . w_c) + b_c over the columns c of a queue or a vocabulary, its target
t = alpha * softmax(teacher logits) + (1 - alpha) * (positives, evenly) as in the paper's eq. 6 and 7. With
lse the logarithm of the sum of exponentials over all columns,

    loss = lse(s) - alpha * E_teacher[s] - (1 - alpha) * mean over positives of s,      d loss / d s = softmax(s) - t,

so one pass over the columns gives the loss, and a second one, which computes the slices again, the gradients. Neither
logits nor probabilities are kept: of (rows, columns) at most a slice exists. `sums` and `slope` are plain torch here, and
Triton kernels in `sliced_triton.py`; the plain form (`losses/`) is what both are tested against.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from albef_ds.models.losses.sliced_problem import (
    COLUMNS,
    FUSED_SLICE,
    FeatureTeacher,
    Positives,
    Problem,
    Sums,
    Teacher,
    at_least_fp32,
    scaled_logits,
    slices,
)


def soft_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    positives: Positives,
    teacher: Teacher | None,
    alpha: float,
    columns: int | None = None,
    *,
    fused: bool = False,
) -> Tensor:
    """The loss of each row, (R,), fp32 (fp64 from fp64); differentiable in `x`, `weight`, `bias` and `scale`.

    Under autocast products are in its precision, those of the backward pass too.

    Args:
        x: (R, D).
        weight: (columns, D).
        bias: (columns,) or None.
        scale: (1,), what similarities are multiplied with (1 / temperature).
        positives: the ground truth.
        teacher: the momentum model's logits; None where alpha is 0. Never differentiated.
        alpha: weight of the teacher.
        columns: size of a slice; None: 4,096 or, where fused, as many as make about a million logits.
        fused: by Triton kernels, on a GPU; their products are in the precision of `x`.

    Raises:
        ValueError: fp64 and fused.
    """
    if fused and x.dtype == torch.float64:
        raise ValueError("fused=True computes in fp32: give features of fp32, fp16 or bf16, or fused=False")
    if teacher is None:
        alpha = 0.0
    if columns is None:
        columns = max(COLUMNS, (FUSED_SLICE // max(1, len(x))) & ~1023) if fused else COLUMNS
    loss: Tensor = _SoftCrossEntropy.apply(x, weight, bias, scale, positives, teacher, alpha, columns, fused)
    return loss


class _Expectation:
    """log sum exp of logits that come in slices, and the mean of a second quantity under their softmax."""

    def __init__(self, rows: int, like: Tensor) -> None:
        self.peak = like.new_full((rows,), torch.finfo(like.dtype).min)  # finite: a slice may hold -inf alone
        self.mass = like.new_zeros(rows)
        self.weighted = like.new_zeros(rows)

    def add(self, logits: Tensor, values: Tensor | None = None) -> None:
        """Take a slice (R, C) in."""
        peak = torch.maximum(self.peak, logits.amax(dim=1))
        shrink = torch.exp(self.peak - peak)
        exponentials = torch.exp(logits - peak[:, None])
        self.mass = self.mass * shrink + exponentials.sum(dim=1)
        if values is not None:
            self.weighted = self.weighted * shrink + (exponentials * values).sum(dim=1)
        self.peak = peak

    @property
    def log_sum(self) -> Tensor:
        return self.peak + torch.log(self.mass)

    @property
    def mean(self) -> Tensor:
        return self.weighted / self.mass


def sums(problem: Problem, columns: int) -> Sums:
    """One pass over the columns, `columns` at a time."""
    x, weight, bias, scale, teacher = problem.x, problem.weight, problem.bias, problem.scale, problem.teacher
    like = at_least_fp32(x)
    student, guide = _Expectation(len(x), like), _Expectation(len(x), like)
    right, count = like.new_zeros(len(x)), like.new_zeros(len(x))
    for part in slices(len(weight), columns):
        logits = scaled_logits(x, weight[part], scale, None if bias is None else bias[part])
        mask = problem.positives.part(part)
        right += logits.masked_fill(~mask, 0.0).sum(dim=1)
        count += mask.sum(dim=1)
        student.add(logits)
        if teacher is not None:
            guide.add(teacher.logits(part, weight[part], scale), logits)
    if teacher is None:
        return Sums(student.log_sum, right, count)
    return Sums(student.log_sum, right, count, guide.log_sum, guide.mean)


def slope(problem: Problem, part: slice, found: Sums, alpha: float) -> Tensor:
    """d loss / d s for a slice of columns, (R, C), fp32 or better."""
    weight, bias, teacher = problem.weight[part], problem.bias, problem.teacher
    result = scaled_logits(problem.x, weight, problem.scale, None if bias is None else bias[part])
    result.sub_(found.log_sum[:, None]).exp_()
    result -= problem.positives.part(part) * ((1.0 - alpha) / found.count)[:, None]
    if teacher is not None and found.guide_log_sum is not None:
        result -= alpha * torch.exp(teacher.logits(part, weight, problem.scale) - found.guide_log_sum[:, None])
    return result


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        positives: Positives,
        teacher: Teacher | None,
        alpha: float,
        columns: int,
        fused: bool,
    ) -> Tensor:
        found: Sums = _form(fused).sums(Problem(x, weight, bias, scale, positives, teacher), columns)
        loss = found.log_sum - (1.0 - alpha) * found.right / found.count
        if found.guide_mean is not None:
            loss = loss - alpha * found.guide_mean
        taught = teacher.features if isinstance(teacher, FeatureTeacher) else teacher and teacher.values
        sums = (getattr(found, field.name) for field in fields(Sums))
        ctx.save_for_backward(x, weight, bias, scale, positives.mask, positives.labels, taught, *sums)
        ctx.settings = (type(teacher), alpha, columns, fused)
        device = x.device.type
        ctx.precision = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, mask, labels, taught, *sums = ctx.saved_tensors
        kind, alpha, columns, fused = ctx.settings
        wants_x, wants_weight, wants_bias, wants_scale, *_ = ctx.needs_input_grad
        problem = Problem(x, weight, bias, scale, Positives(mask, labels), None if taught is None else kind(taught))
        found = Sums(*sums)
        scaled = (x * scale).to(x.dtype) if wants_weight else x
        grad_x = torch.zeros_like(x, dtype=found.log_sum.dtype) if wants_x or wants_scale else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        grad_bias = torch.empty_like(bias) if wants_bias else None
        with ctx.precision:
            for part in slices(len(weight), columns):
                steep = _form(fused).slope(problem, part, found, alpha)
                steep *= gradient[:, None]
                if grad_bias is not None:
                    grad_bias[part] = steep.sum(dim=0)
                steep = steep.to(x.dtype)
                if grad_x is not None:
                    grad_x += steep @ weight[part].to(x.dtype)
                if grad_weight is not None:
                    grad_weight[part] = steep.T @ scaled
        # Similarities are x . w: their part in the gradient of the scale is x . (slope w).
        grad_scale = (grad_x * x).sum().to(scale.dtype).reshape(scale.shape) if wants_scale and grad_x is not None else None
        grad_x = (grad_x * scale).to(x.dtype) if wants_x and grad_x is not None else None
        return grad_x, grad_weight, grad_bias, grad_scale, None, None, None, None, None


def _form(fused: bool) -> Any:
    """What has `sums` and `slope`."""
    if not fused:
        return sys.modules[__name__]

    from albef_ds.models.losses import sliced_triton  # optional package: Triton

    return sliced_triton
