"""Compares memory and time of the ITC and MLM losses by whole rows of logits and by slices of columns, in one run.

    python -m benchmarks.losses --out benchmarks/losses

Batch 64, queue 65,536, vocabulary 30,522, width 768, alpha 0.4, forward and backward. The memory is the peak of live tensors
beyond the inputs, counted at every allocation by torch's profiler.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from albef_ds.models.losses.contrastive import contrastive_loss
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.models.losses.sliced import TORCH, soft_cross_entropy
from albef_ds.models.losses.sliced_problem import LogitTeacher, Positives
from albef_ds.models.losses.wide import SlicedLosses
from benchmarks.record import record_parser, write_record

ALPHA = 0.4


def peak_bytes(run: Callable[[], Any]) -> int:
    """Peak of bytes allocated and not yet freed while `run` runs."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    level = peak = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):  # type: ignore[union-attr]
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak


def seconds(run: Callable[[], Any], repetitions: int) -> float:
    """Median seconds of `repetitions` runs after a warm-up."""
    run()
    found = []
    for _ in range(repetitions):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def losses(
    batch: int, queue: int, vocabulary: int, width: int, tokens: int, matrix_learns: bool
) -> dict[str, dict[str, Callable[[], Any]]]:
    """The plain and the sliced form of each loss, as calls that compute loss and gradients."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    features, teacher = (F.normalize(draw(batch, 256), dim=1) for _ in range(2))
    keys = F.normalize(draw(batch + queue, 256), dim=1)
    mask = torch.zeros(batch, batch + queue, dtype=torch.bool)
    mask[torch.arange(batch), torch.arange(batch)] = True
    temperature = torch.full((1,), 0.07, requires_grad=True)
    features.requires_grad_()
    hidden, weight, bias = draw(tokens, width).requires_grad_(), draw(vocabulary, width), torch.zeros(vocabulary)
    weight.mul_(0.02).requires_grad_(matrix_learns)
    bias.requires_grad_()
    labels, momentum_logits = torch.arange(tokens), draw(tokens, vocabulary)

    # Gradients are returned and not kept, so that memory freed in a measured call was allocated in it.
    def itc_plain() -> tuple[Tensor, ...]:
        loss = contrastive_loss(features, teacher, keys, mask, temperature, ALPHA)[0]
        return torch.autograd.grad(loss, [features, temperature])

    def itc_sliced() -> tuple[Tensor, ...]:
        loss = SlicedLosses(TORCH).contrastive(features, teacher, keys, mask, temperature, ALPHA, batch)[0]
        return torch.autograd.grad(loss, [features, temperature])

    learned = [hidden, weight, bias] if matrix_learns else [hidden, bias]

    def mlm_plain() -> tuple[Tensor, ...]:
        loss = distilled_cross_entropy(F.linear(hidden, weight, bias), labels, momentum_logits, ALPHA).sum()
        return torch.autograd.grad(loss, learned)

    def mlm_sliced() -> tuple[Tensor, ...]:
        one, given = torch.ones(1), LogitTeacher(momentum_logits)
        loss = soft_cross_entropy(hidden, weight, bias, one, Positives(labels=labels), given, ALPHA).sum()
        return torch.autograd.grad(loss, learned)

    return {"ITC, one direction": {"plain": itc_plain, "sliced": itc_sliced}, "MLM": {"plain": mlm_plain, "sliced": mlm_sliced}}


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    totals = {"plain": 0.0, "sliced": 0.0}
    frozen, learning = (losses(64, 65_536, 30_522, 768, 64 * 4, matrix_learns=learns) for learns in (False, True))
    for name, forms in {**frozen, "MLM, matrix learns": learning["MLM"]}.items():
        for form, run in forms.items():
            run()
            peak = peak_bytes(run) / 2**20
            totals[form] += peak if forms is not learning["MLM"] else 0.0
            taken = f"{seconds(run, arguments.repetitions):.2f}"
            rows.append({"loss": name, "form": form, "peak, MB": f"{peak:.0f}", "s": taken})
    for form, total in totals.items():
        rows.append({"loss": "ITC + MLM", "form": form, "peak, MB": f"{total:.0f}", "s": ""})
    ratio = totals["sliced"] / totals["plain"]
    notes = [
        f"Sliced over plain, first two losses together: {ratio:.2f} of the memory. 256 masked tokens; the momentum model's MLM",
        "logits are an input (31 MB, in neither figure). If the vocabulary matrix learns, its gradient (89 MB) is counted: the",
        "plain form reaches its peak before that gradient exists. fp32, one thread; seconds are medians.",
    ]
    write_record(arguments.out, "ITC and MLM losses by slices of columns", notes, rows, ["torch"], {"ratio": ratio})


if __name__ == "__main__":
    main()
