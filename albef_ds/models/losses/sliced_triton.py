"""The two passes of `soft_cross_entropy.py` as Triton kernels, for ITC against the queue and MLM against the vocabulary alike.

`sums` goes from features to each row's sums without a logit in memory: a program takes a block of rows and a share of the
columns, and torch puts the shares together. `slope` writes the slopes of one slice of columns, whose products with features
and matrix are torch's. Products add up in fp32; those of fp32 numbers are in fp32 throughout (ieee).

Proved in Triton's interpreter against fp64 (tests/models/losses/test_triton.py). Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from albef_ds.models.losses.sliced_problem import FeatureTeacher, Problem, Sums

_COLUMNS = 64
_SHARES = 64
"""Programs per block of rows in `sums`: a batch has few rows and a queue many columns."""
_LOWEST = tl.constexpr(-3.0e38)  # finite: a tile may hold -inf alone
_NO_TEACHER, _FEATURES_TEACH, _LOGITS_TEACH = 0, 1, 2


@triton.jit
def _tile(pointer, rows, columns, width, row_mask, column_mask):  # type: ignore[no-untyped-def]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=row_mask[:, None] & column_mask[None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _logits_tile(  # type: ignore[no-untyped-def]
    x, guide, weight, bias, factor, rows, columns, row_mask, column_mask, num_columns, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr, BIASED: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    """The student's and the teacher's logits of a tile, fp32; the teacher's are 0 without one."""
    own = tl.zeros((ROWS, COLUMNS), tl.float32)
    taught = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, width, FEATURES):
        features = start + tl.arange(0, FEATURES)
        feature_mask = features < width
        left = _tile(x, rows, features, width, row_mask, feature_mask)
        right = tl.trans(_tile(weight, columns, features, width, column_mask, feature_mask).to(left.dtype))
        own += tl.dot(left, right, input_precision="ieee")
        if TEACHER == 1:
            other = _tile(guide, rows, features, width, row_mask, feature_mask).to(left.dtype)
            taught += tl.dot(other, right, input_precision="ieee")
    own *= factor
    taught *= factor
    if TEACHER == 2:
        taught = _tile(guide, rows, columns, num_columns, row_mask, column_mask).to(tl.float32)
    if BIASED:
        own += tl.load(bias + columns, mask=column_mask, other=0.0).to(tl.float32)[None, :]
    return own, taught


@triton.jit  # type: ignore[untyped-decorator]
def _right_tile(  # type: ignore[no-untyped-def]
    positives, rows, columns, row_mask, column_mask, num_columns, LABELS: tl.constexpr
):  # fmt: skip
    """1 where a column is right, fp32."""
    if LABELS:
        labels = tl.load(positives + rows, mask=row_mask, other=-1)
        right = ((labels[:, None] == columns[None, :]) & column_mask[None, :]).to(tl.float32)
    else:
        right = _tile(positives, rows, columns, num_columns, row_mask, column_mask).to(tl.float32)
    return right


@triton.jit  # type: ignore[untyped-decorator]
def _sums_kernel(  # type: ignore[no-untyped-def]
    x, guide, weight, bias, positives, scale, out, num_rows, num_columns, width, share,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr,
    BIASED: tl.constexpr, LABELS: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    row_mask = rows < num_rows
    factor = tl.load(scale)
    first = part * share
    end = tl.minimum(first + share, num_columns)
    peak = tl.full((ROWS,), _LOWEST, tl.float32)
    guide_peak = tl.full((ROWS,), _LOWEST, tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    guide_mass = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS,), tl.float32)
    right = tl.zeros((ROWS,), tl.float32)
    count = tl.zeros((ROWS,), tl.float32)
    for start in range(first, end, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        column_mask = columns < end
        own, taught = _logits_tile(
            x, guide, weight, bias, factor, rows, columns, row_mask, column_mask, num_columns, width,
            ROWS, COLUMNS, FEATURES, BIASED, TEACHER,
        )  # fmt: skip
        is_right = _right_tile(positives, rows, columns, row_mask, column_mask, num_columns, LABELS)
        right += tl.sum(tl.where(is_right > 0.0, own, 0.0), 1)
        count += tl.sum(is_right, 1)
        valid = tl.where(column_mask[None, :], own, float("-inf"))
        highest = tl.maximum(peak, tl.max(valid, 1))
        mass = mass * tl.exp(peak - highest) + tl.sum(tl.exp(valid - highest[:, None]), 1)
        peak = highest
        if TEACHER > 0:
            valid = tl.where(column_mask[None, :], taught, float("-inf"))
            highest = tl.maximum(guide_peak, tl.max(valid, 1))
            shrink = tl.exp(guide_peak - highest)
            exponentials = tl.exp(valid - highest[:, None])
            guide_mass = guide_mass * shrink + tl.sum(exponentials, 1)
            weighted = weighted * shrink + tl.sum(exponentials * own, 1)
            guide_peak = highest
    base = out + part * 7 * num_rows + rows
    tl.store(base, peak, mask=row_mask)
    tl.store(base + num_rows, mass, mask=row_mask)
    tl.store(base + 2 * num_rows, right, mask=row_mask)
    tl.store(base + 3 * num_rows, count, mask=row_mask)
    tl.store(base + 4 * num_rows, guide_peak, mask=row_mask)
    tl.store(base + 5 * num_rows, guide_mass, mask=row_mask)
    tl.store(base + 6 * num_rows, weighted, mask=row_mask)


@triton.jit  # type: ignore[untyped-decorator]
def _slope_kernel(  # type: ignore[no-untyped-def]
    x, guide, weight, bias, positives, scale, log_sum, guide_log_sum, count, out, num_rows, num_columns, width, first, end, alpha,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FEATURES: tl.constexpr,
    BIASED: tl.constexpr, LABELS: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = first + tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row_mask, column_mask = rows < num_rows, columns < end
    own, taught = _logits_tile(
        x, guide, weight, bias, tl.load(scale), rows, columns, row_mask, column_mask, num_columns, width,
        ROWS, COLUMNS, FEATURES, BIASED, TEACHER,
    )  # fmt: skip
    is_right = _right_tile(positives, rows, columns, row_mask, column_mask, num_columns, LABELS)
    truth = (1.0 - alpha) / tl.load(count + rows, mask=row_mask, other=1.0)
    slope = tl.exp(own - tl.load(log_sum + rows, mask=row_mask, other=0.0)[:, None]) - is_right * truth[:, None]
    if TEACHER > 0:
        slope -= alpha * tl.exp(taught - tl.load(guide_log_sum + rows, mask=row_mask, other=0.0)[:, None])
    place = out + rows[:, None] * (end - first) + (columns - first)[None, :]
    tl.store(place, slope, mask=row_mask[:, None] & column_mask[None, :])


def sums(problem: Problem, columns: int) -> Sums:
    """See `soft_cross_entropy.sums`; the size of a slice plays no part."""
    num_rows, num_columns = len(problem.x), len(problem.weight)
    pointers, switches = _inputs(problem)
    blocks = triton.cdiv(num_columns, _COLUMNS)
    share = triton.cdiv(blocks, min(_SHARES, blocks)) * _COLUMNS
    shares = triton.cdiv(num_columns, share)
    out = problem.x.new_empty((shares, 7, num_rows), dtype=torch.float32)
    grid = (triton.cdiv(num_rows, switches["ROWS"]), shares)
    _sums_kernel[grid](*pointers, out, num_rows, num_columns, problem.x.shape[1], share, **switches)
    common, mass = _combine(out[:, 0], out[:, 1])
    own = common + torch.log(mass), out[:, 2].sum(dim=0), out[:, 3].sum(dim=0)
    if problem.teacher is None:
        return Sums(*own)
    common, mass, weighted = _combine(out[:, 4], out[:, 5], out[:, 6])
    return Sums(*own, common + torch.log(mass), weighted / mass)


def slope(problem: Problem, part: slice, found: Sums, alpha: float) -> Tensor:
    """See `soft_cross_entropy.slope`."""
    num_rows, num_columns = len(problem.x), part.stop - part.start
    pointers, switches = _inputs(problem)
    out = problem.x.new_empty((num_rows, num_columns), dtype=torch.float32)
    grid = (triton.cdiv(num_rows, switches["ROWS"]), triton.cdiv(num_columns, _COLUMNS))
    guide_log_sum = found.log_sum if found.guide_log_sum is None else found.guide_log_sum
    sizes = (num_rows, len(problem.weight), problem.x.shape[1], part.start, part.stop)
    _slope_kernel[grid](*pointers, found.log_sum, guide_log_sum, found.count, out, *sizes, alpha, **switches)
    return out


def _inputs(problem: Problem) -> tuple[list[Tensor], dict[str, Any]]:
    """What both kernels read, in their order, and their compile-time switches. What is absent is never read."""
    x, weight = problem.x.contiguous(), problem.weight.contiguous()
    teacher, kind = x, _NO_TEACHER
    if isinstance(problem.teacher, FeatureTeacher):
        teacher, kind = problem.teacher.features.contiguous(), _FEATURES_TEACH
    elif problem.teacher is not None:
        teacher, kind = problem.teacher.values.contiguous(), _LOGITS_TEACH
    labels = problem.positives.labels
    positives = problem.positives.mask if labels is None else labels
    assert positives is not None
    positives = positives.to(torch.uint8) if labels is None else positives
    switches = {
        "ROWS": min(64, max(16, triton.next_power_of_2(len(x)))),
        "COLUMNS": _COLUMNS,
        "FEATURES": min(64, max(16, triton.next_power_of_2(x.shape[1]))),
        "BIASED": problem.bias is not None,
        "LABELS": labels is not None,
        "TEACHER": kind,
    }
    bias = x if problem.bias is None else problem.bias.contiguous()
    return [x, teacher, weight, bias, positives.contiguous(), problem.scale], switches


def _combine(peak: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
    """Sums of exponentials relative to each share's peak (S, R), put together: the common peak, and the sums (R,)."""
    common = peak.amax(dim=0)
    weights = torch.exp(peak - common)
    return (common, *((part * weights).sum(dim=0) for part in sums))
