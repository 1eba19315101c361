"""Runs in a separate process with TRITON_INTERPRET=1, which Triton reads when it is imported."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.config.schema import ComputeConfig
from albef_ds.models.losses.sliced import TORCH, TRITON, SlicedForm, soft_cross_entropy
from albef_ds.models.losses.sliced_problem import FeatureTeacher, LogitTeacher, Positives
from tests.tasks.tiny import fill_queue, losses_and_gradients, random_batch, tiny_task

Loss = Callable[..., Tensor]


def contrast(rows: int, width: int, total: int, alpha: float, columns: int | None = 128) -> tuple[Loss, list[Tensor]]:
    """ITC: returns the loss, computed `columns` at a time, and the tensors to differentiate in."""
    generator = torch.Generator().manual_seed(rows)
    x, teacher, keys = (F.normalize(torch.randn(n, width, generator=generator), dim=1) for n in (rows, rows, total))
    mask = torch.rand(rows, total, generator=generator) < 0.02
    mask[torch.arange(rows), torch.arange(rows)] = True

    def loss(x: Tensor, scale: Tensor, form: SlicedForm) -> Tensor:
        given = FeatureTeacher(teacher.to(x)) if alpha else None
        positives = Positives(mask=mask.to(x.device))
        return soft_cross_entropy(x, keys.to(x), None, scale, positives, given, alpha, columns, form=form)

    return loss, [x, torch.full((1,), 1 / 0.07)]


def words(rows: int, width: int, total: int, alpha: float, columns: int | None = 128) -> tuple[Loss, list[Tensor]]:
    """MLM: returns hidden states, the vocabulary's matrix and its bias."""
    generator = torch.Generator().manual_seed(rows)
    hidden, matrix = torch.randn(rows, width, generator=generator), torch.randn(total, width, generator=generator)
    teacher, labels = torch.randn(rows, total, generator=generator), torch.randint(0, total, (rows,), generator=generator)
    labels[0] = total - 1

    def loss(hidden: Tensor, matrix: Tensor, bias: Tensor, form: SlicedForm) -> Tensor:
        given = LogitTeacher(teacher.to(hidden)) if alpha else None
        one = torch.ones(1, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        bias = bias.repeat_interleave(2)[::2]  # not contiguous
        positives = Positives(labels=labels.to(hidden.device))
        return soft_cross_entropy(hidden, matrix, bias, one, positives, given, alpha, columns, form=form)

    return loss, [hidden, 0.3 * matrix, torch.randn(total, generator=generator)]


def deviation(
    loss: Loss, inputs: list[Tensor], precision: torch.dtype = torch.float32, device: torch.device | None = None
) -> float:
    """Returns the largest deviation of loss and gradients, in `precision`, from the sliced form in fp64; both on `device`."""
    rates = torch.linspace(0.5, 1.5, len(inputs[0]), device=device)
    found = []
    for kind, form in ((precision, TRITON), (torch.float64, TORCH)):
        leaves = [tensor.to(device, precision).to(kind).requires_grad_() for tensor in inputs]
        value = loss(*leaves, form)
        gradients = torch.autograd.grad((value * rates.to(value.dtype)).sum(), leaves)
        found.append([value.detach().double(), *(gradient.double() for gradient in gradients)])
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*found, strict=True))


def whole_task() -> float:
    """Returns the largest deviation of a pretraining step's losses and gradients from the sliced form; both in fp32."""
    found = []
    for form in ("triton", "sliced"):
        task = tiny_task(compute=ComputeConfig(wide_losses=form)).float()
        task.momentum.modules.float()
        fill_queue(task, 9)
        losses, gradients = losses_and_gradients(task, random_batch(5, dtype=torch.float32))
        found.append({**{name: torch.tensor(value) for name, value in losses.items()}, **gradients})
    largest = max(float(value.abs().max()) for value in found[1].values())
    return max(float((found[0][name] - value).abs().max()) for name, value in found[1].items()) / largest


def report(name: str, found: float, bound: float) -> None:
    print(name, found, flush=True)
    assert found < bound, name


if __name__ == "__main__":
    for shape in ((5, 24, 300, 0.4), (17, 32, 130, 0.0), (16, 16, 64, 0.4)):
        report(f"contrast {shape}", deviation(*contrast(*shape)), 2e-5)
    for shape in ((5, 24, 300, 0.4), (70, 150, 200, 0.4), (17, 100, 130, 0.0)):  # rows and features of more than one block
        report(f"words {shape}", deviation(*words(*shape)), 2e-5)
    report("a step of pretraining", whole_task(), 1e-5)
    # fp16 rounds by up to 5e-4, relative, several times on the way. The interpreter has no products of bf16.
    report("words in fp16", deviation(*words(20, 80, 150, 0.4), precision=torch.float16), 1e-3)
