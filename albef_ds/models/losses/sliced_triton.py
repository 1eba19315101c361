"""The two passes of `sliced.py` as Triton kernels, for ITC against the queue and MLM over the vocabulary.

`sums` computes each row's sums from features without storing logits: a program takes a block of rows and a share of the columns,
and torch combines the shares. `logit_gradient` writes the gradients of one slice of logits, which torch multiplies with features
and matrix. Products are accumulated in fp32; products of fp32 numbers are in fp32 throughout (ieee).

Tested in Triton's interpreter against fp64 (tests/models/losses/test_triton.py) and compiled for three generations of GPUs
(benchmarks/kernels.py). Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from albef_ds.models.losses.sliced_problem import FeatureTeacher, Problem, Sums

_COLUMNS = 64
_SHARE = 1024
"""Columns per program of `sums`: a batch has few rows and a queue many columns."""
_ROWS, _WARPS = 32, 8
"""Most rows per program, and its warps. With 64 rows or 4 warps registers are spilled (benchmarks/kernels.py)."""
_LOWEST = tl.constexpr(-3.0e38)  # finite, since all logits of a tile may be -inf
_NO_TEACHER, _TEACHER_FEATURES, _TEACHER_LOGITS = 0, 1, 2


@triton.jit
def _tile(pointer, rows, columns, width, row_mask, column_mask):  # type: ignore[no-untyped-def]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=row_mask[:, None] & column_mask[None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _logits_tile(  # type: ignore[no-untyped-def]
    x, teacher, weight, bias, factor, rows, columns, row_mask, column_mask, num_columns, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr, BIASED: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    """Returns the student's and the teacher's logits of a tile, fp32; the latter are 0 without a teacher."""
    logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    teacher_logits = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, WIDTH, FEATURES):
        features = start + tl.arange(0, FEATURES)
        feature_mask = features < WIDTH
        left = _tile(x, rows, features, WIDTH, row_mask, feature_mask)
        right = tl.trans(_tile(weight, columns, features, WIDTH, column_mask, feature_mask).to(left.dtype))
        logits += tl.dot(left, right, input_precision="ieee")
        if TEACHER == 1:
            other = _tile(teacher, rows, features, WIDTH, row_mask, feature_mask).to(left.dtype)
            teacher_logits += tl.dot(other, right, input_precision="ieee")
    logits *= factor
    teacher_logits *= factor
    if TEACHER == 2:
        teacher_logits = _tile(teacher, rows, columns, num_columns, row_mask, column_mask).to(tl.float32)
    if BIASED:
        logits += tl.load(bias + columns, mask=column_mask, other=0.0).to(tl.float32)[None, :]
    return logits, teacher_logits


@triton.jit  # type: ignore[untyped-decorator]
def _positives_tile(  # type: ignore[no-untyped-def]
    positives, rows, columns, row_mask, column_mask, num_columns, LABELS: tl.constexpr
):  # fmt: skip
    """Returns 1 where a column is a positive, else 0, fp32."""
    if LABELS:
        labels = tl.load(positives + rows, mask=row_mask, other=-1)
        found = ((labels[:, None] == columns[None, :]) & column_mask[None, :]).to(tl.float32)
    else:
        found = _tile(positives, rows, columns, num_columns, row_mask, column_mask).to(tl.float32)
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(  # type: ignore[no-untyped-def]
    x, teacher, weight, bias, positives, scale, out, num_rows, num_columns,
    WIDTH: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr,
    BIASED: tl.constexpr, LABELS: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    row_mask = rows < num_rows
    factor = tl.load(scale)
    running_max = tl.full((ROWS,), _LOWEST, tl.float32)
    teacher_max = tl.full((ROWS,), _LOWEST, tl.float32)
    running_sum = tl.zeros((ROWS,), tl.float32)
    teacher_sum = tl.zeros((ROWS,), tl.float32)
    weighted_sum = tl.zeros((ROWS,), tl.float32)
    positive_sum = tl.zeros((ROWS,), tl.float32)
    count = tl.zeros((ROWS,), tl.float32)
    for start in range(0, SHARE, COLUMNS):
        columns = part * SHARE + start + tl.arange(0, COLUMNS)
        column_mask = columns < num_columns
        logits, teacher_logits = _logits_tile(
            x, teacher, weight, bias, factor, rows, columns, row_mask, column_mask, num_columns, WIDTH,
            ROWS, COLUMNS, FEATURES, BIASED, TEACHER,
        )  # fmt: skip
        is_positive = _positives_tile(positives, rows, columns, row_mask, column_mask, num_columns, LABELS)
        positive_sum += tl.sum(tl.where(is_positive > 0.0, logits, 0.0), 1)
        count += tl.sum(is_positive, 1)
        valid = tl.where(column_mask[None, :], logits, float("-inf"))
        highest = tl.maximum(running_max, tl.max(valid, 1))
        running_sum = running_sum * tl.exp(running_max - highest) + tl.sum(tl.exp(valid - highest[:, None]), 1)
        running_max = highest
        if TEACHER > 0:
            valid = tl.where(column_mask[None, :], teacher_logits, float("-inf"))
            highest = tl.maximum(teacher_max, tl.max(valid, 1))
            shrink = tl.exp(teacher_max - highest)
            exponentials = tl.exp(valid - highest[:, None])
            teacher_sum = teacher_sum * shrink + tl.sum(exponentials, 1)
            weighted_sum = weighted_sum * shrink + tl.sum(exponentials * logits, 1)
            teacher_max = highest
    base = out + part * 7 * num_rows + rows
    tl.store(base, running_max, mask=row_mask)
    tl.store(base + num_rows, running_sum, mask=row_mask)
    tl.store(base + 2 * num_rows, positive_sum, mask=row_mask)
    tl.store(base + 3 * num_rows, count, mask=row_mask)
    tl.store(base + 4 * num_rows, teacher_max, mask=row_mask)
    tl.store(base + 5 * num_rows, teacher_sum, mask=row_mask)
    tl.store(base + 6 * num_rows, weighted_sum, mask=row_mask)


@triton.jit  # type: ignore[untyped-decorator]
def _logit_gradient_kernel(  # type: ignore[no-untyped-def]
    x, teacher, weight, bias, positives, scale, log_sum, teacher_log_sum, count, out,
    num_rows, num_columns, first, end, alpha,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr,
    BIASED: tl.constexpr, LABELS: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = first + tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row_mask, column_mask = rows < num_rows, columns < end
    logits, teacher_logits = _logits_tile(
        x, teacher, weight, bias, tl.load(scale), rows, columns, row_mask, column_mask, num_columns, WIDTH,
        ROWS, COLUMNS, FEATURES, BIASED, TEACHER,
    )  # fmt: skip
    is_positive = _positives_tile(positives, rows, columns, row_mask, column_mask, num_columns, LABELS)
    truth = (1.0 - alpha) / tl.load(count + rows, mask=row_mask, other=1.0)
    gradient = tl.exp(logits - tl.load(log_sum + rows, mask=row_mask, other=0.0)[:, None]) - is_positive * truth[:, None]
    if TEACHER > 0:
        gradient -= alpha * tl.exp(teacher_logits - tl.load(teacher_log_sum + rows, mask=row_mask, other=0.0)[:, None])
    place = out + rows[:, None] * (end - first) + (columns - first)[None, :]
    tl.store(place, gradient, mask=row_mask[:, None] & column_mask[None, :])


def sums(problem: Problem) -> Sums:
    """See `SlicedForm.sums`."""
    num_rows, num_columns = len(problem.x), len(problem.weight)
    pointers, switches = _inputs(problem)
    share = min(_SHARE, max(_COLUMNS, triton.next_power_of_2(num_columns)))
    shares = triton.cdiv(num_columns, share)
    out = problem.x.new_empty((shares, 7, num_rows), dtype=torch.float32)
    grid = (triton.cdiv(num_rows, switches["ROWS"]), shares)
    _sums_kernel[grid](*pointers, out, num_rows, num_columns, SHARE=share, **switches)
    highest, total = _combine(out[:, 0], out[:, 1])
    student = highest + torch.log(total), out[:, 2].sum(dim=0), out[:, 3].sum(dim=0)
    if problem.teacher is None:
        return Sums(*student)
    highest, total, weighted = _combine(out[:, 4], out[:, 5], out[:, 6])
    return Sums(*student, highest + torch.log(total), weighted / total)


def logit_gradient(problem: Problem, part: slice, sums: Sums, alpha: float) -> Tensor:
    """See `SlicedForm.logit_gradient`."""
    num_rows, num_columns = len(problem.x), part.stop - part.start
    pointers, switches = _inputs(problem)
    out = problem.x.new_empty((num_rows, num_columns), dtype=torch.float32)
    grid = (triton.cdiv(num_rows, switches["ROWS"]), triton.cdiv(num_columns, _COLUMNS))
    teacher_log_sum = sums.log_sum if sums.teacher_log_sum is None else sums.teacher_log_sum
    rows = (sums.log_sum, teacher_log_sum, sums.num_positives)
    sizes = (num_rows, len(problem.weight), part.start, part.stop)
    _logit_gradient_kernel[grid](*pointers, *rows, out, *sizes, alpha, **switches)
    return out


def _inputs(problem: Problem) -> tuple[list[Tensor], dict[str, Any]]:
    """Returns the input tensors of both kernels in order, with `x` in place of missing ones, and compile-time constants.

    Loops run over constants (WIDTH, SHARE), which Triton's interpreter needs with NumPy 2.4 until Triton 3.7.
    """
    x, weight = problem.x.contiguous(), problem.weight.contiguous()
    teacher, kind = x, _NO_TEACHER
    if isinstance(problem.teacher, FeatureTeacher):
        teacher, kind = problem.teacher.features.contiguous(), _TEACHER_FEATURES
    elif problem.teacher is not None:
        teacher, kind = problem.teacher.values.contiguous(), _TEACHER_LOGITS
    labels = problem.positives.labels
    positives = problem.positives.mask if labels is None else labels
    assert positives is not None
    positives = positives.to(torch.uint8) if labels is None else positives
    switches = {
        "WIDTH": x.shape[1],
        "ROWS": min(_ROWS, max(16, triton.next_power_of_2(len(x)))),
        "COLUMNS": _COLUMNS,
        # A product of fp32 numbers keeps whole rows of its factors in registers.
        "FEATURES": 16 if x.dtype == torch.float32 else 32,
        "BIASED": problem.bias is not None,
        "LABELS": labels is not None,
        "TEACHER": kind,
        "num_warps": _WARPS,
    }
    bias = x if problem.bias is None else problem.bias.contiguous()
    return [x, teacher, weight, bias, positives.contiguous(), problem.scale], switches


def _combine(highest: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
    """Adds sums of exponentials relative to each share's maximum (S, R); returns the overall maximum and the sums (R,)."""
    overall = highest.amax(dim=0)
    weights = torch.exp(highest - overall)
    return (overall, *((part * weights).sum(dim=0) for part in sums))
