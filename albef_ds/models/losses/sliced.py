"""Soft-target cross-entropy from features to loss, forward and backward over one slice of columns at a time.

A row of logits is s = scale * (x . w_c) + b_c over the columns c of a queue or a vocabulary. Its target is
t = alpha * softmax(teacher logits) + (1 - alpha) * (positives with equal weights) as in the paper's eq. 6 and 7. With lse the
logarithm of the sum of exponentials over all columns,

    loss = lse(s) - alpha * E_teacher[s] - (1 - alpha) * mean over positives of s,      d loss / d s = softmax(s) - t,

so one pass over the columns gives the loss, and a second one, which recomputes the slices, the gradients. Neither logits nor
probabilities are kept: at most a slice of (rows, columns) exists. Both passes are methods of a `SlicedForm`: torch (`TorchForm`)
or Triton kernels (`TritonForm`). Both are tested against the losses over full rows of logits.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Protocol

import torch
from torch import Tensor

from albef_ds.models.losses.sliced_problem import FeatureTeacher, Positives, Problem, Sums, Teacher, scaled_logits, slices
from albef_ds.models.precision import at_least_fp32

COLUMNS = 4096
"""Columns per slice: 1 MB of fp32 logits for 64 rows."""
_KERNEL_LOGITS = 1 << 20
"""Logits per slice on a GPU, where smaller slices would spend their time on launching kernels."""


class SlicedForm(Protocol):
    """The two passes over the columns."""

    needs_gpu: bool

    def slice_size(self, rows: int) -> int:
        """Returns the number of columns per slice for `rows` rows."""
        ...

    def sums(self, problem: Problem, columns: int) -> Sums:
        """First pass: returns the sums over all columns, computed `columns` at a time."""
        ...

    def logit_gradient(self, problem: Problem, part: slice, sums: Sums, alpha: float) -> Tensor:
        """Second pass: returns d loss / d s for the columns `part`, (R, C), fp32 or better."""
        ...


class _OnlineSoftmax:
    """log sum exp of logits that are added in slices, and the mean of a second quantity under their softmax."""

    def __init__(self, rows: int, like: Tensor) -> None:
        # Finite, since all logits of a slice may be -inf.
        self.running_max = like.new_full((rows,), torch.finfo(like.dtype).min)
        self.running_sum = like.new_zeros(rows)
        self.weighted_sum = like.new_zeros(rows)

    def add(self, logits: Tensor, values: Tensor | None = None) -> None:
        """Adds a slice (R, C)."""
        highest = torch.maximum(self.running_max, logits.amax(dim=1))
        shrink = torch.exp(self.running_max - highest)
        exponentials = torch.exp(logits - highest[:, None])
        self.running_sum = self.running_sum * shrink + exponentials.sum(dim=1)
        if values is not None:
            self.weighted_sum = self.weighted_sum * shrink + (exponentials * values).sum(dim=1)
        self.running_max = highest

    @property
    def log_sum(self) -> Tensor:
        return self.running_max + torch.log(self.running_sum)

    @property
    def mean(self) -> Tensor:
        return self.weighted_sum / self.running_sum


class TorchForm(SlicedForm):
    """Both passes in torch, on any device."""

    needs_gpu = False

    def slice_size(self, rows: int) -> int:
        return COLUMNS

    def sums(self, problem: Problem, columns: int) -> Sums:
        x, weight, bias, scale, teacher = problem.x, problem.weight, problem.bias, problem.scale, problem.teacher
        like = at_least_fp32(x)
        student, teacher_sums = _OnlineSoftmax(len(x), like), _OnlineSoftmax(len(x), like)
        positive_sum, num_positives = like.new_zeros(len(x)), like.new_zeros(len(x))
        for part in slices(len(weight), columns):
            logits = scaled_logits(x, weight[part], scale, None if bias is None else bias[part])
            mask = problem.positives.part(part)
            positive_sum += logits.masked_fill(~mask, 0.0).sum(dim=1)
            num_positives += mask.sum(dim=1)
            student.add(logits)
            if teacher is not None:
                teacher_sums.add(teacher.logits(part, weight[part], scale), logits)
        if teacher is None:
            return Sums(student.log_sum, positive_sum, num_positives)
        return Sums(student.log_sum, positive_sum, num_positives, teacher_sums.log_sum, teacher_sums.mean)

    def logit_gradient(self, problem: Problem, part: slice, sums: Sums, alpha: float) -> Tensor:
        weight, bias, teacher = problem.weight[part], problem.bias, problem.teacher
        result = scaled_logits(problem.x, weight, problem.scale, None if bias is None else bias[part])
        result.sub_(sums.log_sum[:, None]).exp_()
        result -= problem.positives.part(part) * ((1.0 - alpha) / sums.num_positives)[:, None]
        if teacher is not None and sums.teacher_log_sum is not None:
            result -= alpha * torch.exp(teacher.logits(part, weight, problem.scale) - sums.teacher_log_sum[:, None])
        return result


class TritonForm(SlicedForm):
    """Both passes as Triton kernels, on a GPU; products are in the precision of `x`, which must not be fp64."""

    needs_gpu = True

    def slice_size(self, rows: int) -> int:
        """See `SlicedForm.slice_size`. About a million logits per slice."""
        return max(COLUMNS, (_KERNEL_LOGITS // max(1, rows)) & ~1023)

    def sums(self, problem: Problem, columns: int) -> Sums:
        """See `SlicedForm.sums`. `columns` is ignored. Raises `ValueError` for fp64."""
        if problem.x.dtype == torch.float64:
            raise ValueError("TritonForm computes in fp32: give features of fp32, fp16 or bf16, or use TorchForm")
        from albef_ds.models.losses import sliced_triton  # optional package: Triton

        return sliced_triton.sums(problem)

    def logit_gradient(self, problem: Problem, part: slice, sums: Sums, alpha: float) -> Tensor:
        from albef_ds.models.losses import sliced_triton  # optional package: Triton

        return sliced_triton.logit_gradient(problem, part, sums, alpha)


TORCH, TRITON = TorchForm(), TritonForm()


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
    form: SlicedForm = TORCH,
) -> Tensor:
    """Returns the loss of each row, (R,), fp32 (fp64 from fp64), differentiable in `x`, `weight`, `bias` and `scale`.

    Under autocast, products of the forward and backward pass are in its precision.

    Args:
        x: (R, D).
        weight: (columns, D).
        bias: (columns,) or None.
        scale: (1,), the factor of the similarities (1 / temperature).
        positives: the ground truth.
        teacher: the momentum model's logits; None if alpha is 0. Never differentiated.
        alpha: weight of the teacher.
        columns: columns per slice; None: the form's default.
        form: computes the two passes.
    """
    if teacher is None:
        alpha = 0.0
    columns = form.slice_size(len(x)) if columns is None else columns
    loss: Tensor = _SoftCrossEntropy.apply(x, weight, bias, scale, positives, teacher, alpha, columns, form)
    return loss


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
        form: SlicedForm,
    ) -> Tensor:
        sums = form.sums(Problem(x, weight, bias, scale, positives, teacher), columns)
        loss = sums.log_sum - (1.0 - alpha) * sums.positive_sum / sums.num_positives
        if sums.teacher_mean is not None:
            loss = loss - alpha * sums.teacher_mean
        given = teacher.features if isinstance(teacher, FeatureTeacher) else teacher and teacher.values
        kept = (getattr(sums, field.name) for field in fields(Sums))
        ctx.save_for_backward(x, weight, bias, scale, positives.mask, positives.labels, given, *kept)
        ctx.settings = (type(teacher), alpha, columns, form)
        device = x.device.type
        ctx.precision = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, mask, labels, given, *kept = ctx.saved_tensors
        kind, alpha, columns, form = ctx.settings
        wants_x, wants_weight, wants_bias, wants_scale, *_ = ctx.needs_input_grad
        problem = Problem(x, weight, bias, scale, Positives(mask, labels), None if given is None else kind(given))
        sums = Sums(*kept)
        scaled = (x * scale).to(x.dtype) if wants_weight else x
        grad_x = torch.zeros_like(x, dtype=sums.log_sum.dtype) if wants_x or wants_scale else None
        grad_weight = torch.empty_like(weight) if wants_weight else None
        grad_bias = torch.empty_like(bias) if wants_bias else None
        with ctx.precision:
            for part in slices(len(weight), columns):
                grad_logits = form.logit_gradient(problem, part, sums, alpha)
                grad_logits *= gradient[:, None]
                if grad_bias is not None:
                    grad_bias[part] = grad_logits.sum(dim=0)
                grad_logits = grad_logits.to(x.dtype)
                if grad_x is not None:
                    grad_x += grad_logits @ weight[part].to(x.dtype)
                if grad_weight is not None:
                    grad_weight[part] = grad_logits.T @ scaled
        # Similarities are x . w, so the gradient of the scale is x . (gradient of the logits, times w).
        grad_scale = (grad_x * x).sum().to(scale.dtype).reshape(scale.shape) if wants_scale and grad_x is not None else None
        grad_x = (grad_x * scale).to(x.dtype) if wants_x and grad_x is not None else None
        return grad_x, grad_weight, grad_bias, grad_scale, None, None, None, None, None
