"""ITC against the queue as two Triton kernels: features to loss, and back to the features, without logits in memory.

The mathematics is that of `soft_cross_entropy.py` with a teacher of features, no bias and columns that do not learn. A program
takes a block of rows and a share of the columns; the shares' sums are put together in torch. Products are in fp32 (ieee).

Proved in Triton's interpreter against the sliced form (tests/kernels/test_triton.py). Not yet run on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS, _COLUMNS = 16, 64
_SHARES = 64
"""Programs per block of rows: a batch has few rows and a queue many columns."""


@triton.jit
def _block(pointer, rows, columns, width, row_mask, column_mask):  # type: ignore[no-untyped-def]
    return tl.load(pointer + rows[:, None] * width + columns[None, :], mask=row_mask[:, None] & column_mask[None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, teacher, keys, positives, scale, out, num_rows, num_columns, share, width,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DISTILLED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    features = tl.arange(0, WIDTH)
    row_mask, feature_mask = rows < num_rows, features < width
    own = _block(x, rows, features, width, row_mask, feature_mask)
    guide = _block(teacher, rows, features, width, row_mask, feature_mask)
    factor = tl.load(scale)
    first = part * share
    end = tl.minimum(first + share, num_columns)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    guide_peak = tl.full((ROWS,), float("-inf"), tl.float32)
    mass = tl.zeros((ROWS,), tl.float32)
    guide_mass = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS,), tl.float32)
    right = tl.zeros((ROWS,), tl.float32)
    count = tl.zeros((ROWS,), tl.float32)
    for start in range(first, end, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        column_mask = columns < end
        block = _block(keys, columns, features, width, column_mask, feature_mask)
        logits = tl.dot(own, tl.trans(block), input_precision="ieee") * factor
        is_right = _block(positives, rows, columns, num_columns, row_mask, column_mask).to(tl.float32)
        right += tl.sum(logits * is_right, 1)
        count += tl.sum(is_right, 1)
        valid = tl.where(column_mask[None, :], logits, float("-inf"))
        highest = tl.maximum(peak, tl.max(valid, 1))
        mass = mass * tl.exp(peak - highest) + tl.sum(tl.exp(valid - highest[:, None]), 1)
        peak = highest
        if DISTILLED:
            guide_logits = tl.dot(guide, tl.trans(block), input_precision="ieee") * factor
            guide_valid = tl.where(column_mask[None, :], guide_logits, float("-inf"))
            highest = tl.maximum(guide_peak, tl.max(guide_valid, 1))
            shrink = tl.exp(guide_peak - highest)
            exponentials = tl.exp(guide_valid - highest[:, None])
            guide_mass = guide_mass * shrink + tl.sum(exponentials, 1)
            weighted = weighted * shrink + tl.sum(exponentials * logits, 1)
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
def _backward_kernel(  # type: ignore[no-untyped-def]
    x, teacher, keys, positives, scale, log_sum, guide_log_sum, count, gradient, grad_x, grad_scale,
    num_rows, num_columns, share, width, alpha,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DISTILLED: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    features = tl.arange(0, WIDTH)
    row_mask, feature_mask = rows < num_rows, features < width
    own = _block(x, rows, features, width, row_mask, feature_mask)
    guide = _block(teacher, rows, features, width, row_mask, feature_mask)
    factor = tl.load(scale)
    own_log_sum = tl.load(log_sum + rows, mask=row_mask, other=0.0)
    guide_own_log_sum = tl.load(guide_log_sum + rows, mask=row_mask, other=0.0)
    truth = (1.0 - alpha) / tl.load(count + rows, mask=row_mask, other=1.0)
    incoming = tl.load(gradient + rows, mask=row_mask, other=0.0)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    scale_total = tl.zeros((ROWS,), tl.float32)
    first = part * share
    end = tl.minimum(first + share, num_columns)
    for start in range(first, end, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        column_mask = columns < end
        block = _block(keys, columns, features, width, column_mask, feature_mask)
        similarity = tl.dot(own, tl.trans(block), input_precision="ieee")
        is_right = _block(positives, rows, columns, num_columns, row_mask, column_mask).to(tl.float32)
        slope = tl.exp(similarity * factor - own_log_sum[:, None]) - is_right * truth[:, None]
        if DISTILLED:
            guide_logits = tl.dot(guide, tl.trans(block), input_precision="ieee") * factor
            slope -= alpha * tl.exp(guide_logits - guide_own_log_sum[:, None])
        slope = tl.where(column_mask[None, :], slope, 0.0) * incoming[:, None]
        scale_total += tl.sum(slope * similarity, 1)
        total += tl.dot(slope, block, input_precision="ieee")
    where = part * num_rows + rows
    tl.store(grad_scale + where, scale_total, mask=row_mask)
    place = grad_x + where[:, None] * width + features[None, :]
    tl.store(place, total * factor, mask=row_mask[:, None] & feature_mask[None, :])


def contrast(x: Tensor, teacher: Tensor, keys: Tensor, positives: Tensor, scale: Tensor, alpha: float) -> Tensor:
    """Soft-target cross-entropy of each row, fp32 (R,); differentiable in `x` and `scale`.

    Args:
        x: fp32 (R, D), the student's features.
        teacher: fp32 (R, D), the momentum model's.
        keys: fp32 (K, D).
        positives: bool (R, K), at least one true per row.
        scale: fp32 (1,), 1 / temperature.
        alpha: weight of the teacher.
    """
    loss: Tensor = _Contrast.apply(x.contiguous(), teacher.contiguous(), keys.contiguous(), positives, scale, alpha)
    return loss


def _launch(x: Tensor, keys: Tensor) -> tuple[tuple[int, int], dict[str, Any], int]:
    blocks = triton.cdiv(keys.shape[0], _COLUMNS)
    share = triton.cdiv(blocks, min(_SHARES, blocks)) * _COLUMNS
    sizes = {"WIDTH": max(16, triton.next_power_of_2(x.shape[1])), "ROWS": _ROWS, "COLUMNS": _COLUMNS}
    return (triton.cdiv(x.shape[0], _ROWS), triton.cdiv(keys.shape[0], share)), sizes, share


def _combine(peak: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
    """Sums of exponentials relative to each share's peak (S, R), put together: the common peak, and the sums (R,)."""
    common = peak.amax(dim=0)
    weights = torch.exp(peak - common)
    return (common, *((part * weights).sum(dim=0) for part in sums))


class _Contrast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, teacher: Tensor, keys: Tensor, positives: Tensor, scale: Tensor, alpha: float) -> Tensor:
        grid, sizes, share = _launch(x, keys)
        mask = positives.to(torch.uint8)
        out = x.new_empty((grid[1], 7, x.shape[0]))
        shape = (x.shape[0], keys.shape[0], share, x.shape[1])
        _forward_kernel[grid](x, teacher, keys, mask, scale, out, *shape, **sizes, DISTILLED=alpha > 0.0)
        common, mass = _combine(out[:, 0], out[:, 1])
        log_sum, count = common + torch.log(mass), out[:, 3].sum(dim=0)
        loss = log_sum - (1.0 - alpha) * out[:, 2].sum(dim=0) / count
        guide_log_sum = torch.zeros_like(log_sum)
        if alpha > 0.0:
            common, mass, weighted = _combine(out[:, 4], out[:, 5], out[:, 6])
            guide_log_sum = common + torch.log(mass)
            loss = loss - alpha * weighted / mass
        ctx.save_for_backward(x, teacher, keys, mask, scale, log_sum, guide_log_sum, count)
        ctx.alpha = alpha
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, teacher, keys, mask, scale, log_sum, guide_log_sum, count = ctx.saved_tensors
        grid, sizes, share = _launch(x, keys)
        grad_x = x.new_empty((grid[1], *x.shape))
        grad_scale = x.new_empty((grid[1], x.shape[0]))
        inputs = (x, teacher, keys, mask, scale, log_sum, guide_log_sum, count, gradient.contiguous(), grad_x, grad_scale)
        shape = (x.shape[0], keys.shape[0], share, x.shape[1], ctx.alpha)
        _backward_kernel[grid](*inputs, *shape, **sizes, DISTILLED=ctx.alpha > 0.0)
        return grad_x.sum(dim=0), None, None, None, grad_scale.sum().reshape(scale.shape), None
