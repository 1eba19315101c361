"""Checks of single parts: the device, the Triton losses, the momentum update, the golden numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from albef_ds.config.schema import ComputeConfig
from albef_ds.engine.build import build_task
from albef_ds.engine.zero import momentum_storage
from albef_ds.engine.zero.momentum import ShardedMomentum
from benchmarks.gpu.common import compared_config, exact_device, measured_config
from benchmarks.gpu.rows import Context, Row
from tests.models.losses import triton_check
from tests.parity.case import GoldenCase
from tests.parity.pretrain import run_case

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "public"
GOLDEN_CASES = ("pretrain_a0.4_distill", "pretrain_a0_distill")
BF16_BOUNDS = {"loss": 2e-2, "momentum": 1e-6, "temperature": 1e-5, "gradient": 5e-2, "weights": 1e-2, "queue after": 5e-3}
BF16_ARRAY_BOUND = 0.5
"""Largest deviations under bf16 autocast, by the first word of the quantity, and of all arrays. On a CPU a loss is 6e-3 off,
gradients are 9e-3, weights 1e-3, the queue 2e-4, and arrays (logits) 0.17."""
UNBOUNDED = ("negatives", "queue pointer")
UPDATES = 20


def device(context: Context) -> Iterator[Row]:
    """The device's name and memory, and products in bf16 and fp32 (TF32 off) against fp64."""
    where = exact_device(context)
    if where.type == "cuda":
        found = torch.cuda.get_device_properties(where)
        yield Row("device", found.name)
        yield Row("memory", found.total_memory / 2**30, "GiB")
        yield Row("compute capability", float(f"{found.major}.{found.minor}"))
        yield Row("CUDA of torch", str(torch.version.cuda))
    else:
        yield Row("device", "CPU")
    left, right = (torch.randn(256, 256, dtype=torch.float64) for _ in range(2))
    exact = left @ right
    for name, dtype, bound in (("fp32", torch.float32, 1e-5), ("bf16", torch.bfloat16, 2e-2)):
        product = left.to(where, dtype) @ right.to(where, dtype)
        yield Row(
            f"product in {name}: error", float((product.double().cpu() - exact).abs().max() / exact.abs().max()), at_most=bound
        )


def losses(context: Context) -> Iterator[Row]:
    """The Triton losses, forward and backward, against the sliced form in fp64."""
    where, config = exact_device(context), measured_config(context)
    queue, embed, words = config.pretraining().queue_size, config.model.embed_dim, config.model.text.vocab_size
    batch = config.train.micro_batch_size
    columns = None if context.model == "base" else 128
    tokens, width = 4 * batch, config.model.text.width
    # Rounding grows with the columns; the interpreter has no products of bf16.
    low = torch.bfloat16 if where.type == "cuda" else torch.float16
    checks = [
        ("ITC in fp32", triton_check.contrast(batch, embed, batch + queue, 0.4, columns), torch.float32, 1e-4),
        ("ITC in fp32, alpha 0", triton_check.contrast(batch, embed, batch + queue, 0.0, columns), torch.float32, 1e-4),
        ("MLM in fp32", triton_check.words(tokens, width, words, 0.4, columns), torch.float32, 1e-4),
        (f"MLM in {str(low)[6:]}", triton_check.words(tokens, width, words, 0.4, columns), low, 2e-2),
    ]
    for name, (loss, inputs), precision, bound in checks:
        found = triton_check.deviation(loss, inputs, precision, where)
        yield Row(f"{name}: largest deviation of loss and gradients from fp64", found, at_most=bound)


def momentum_update(context: Context) -> Iterator[Row]:
    """The sharded momentum model's update on the device, against value and residual in plain torch operations, bit by bit."""
    where = exact_device(context)
    student = build_task(compared_config(context)).base.to(where)
    momentum = ShardedMomentum(student, 0.995)
    momentum.to(where)
    expected = [(unit, unit.storage.sent.clone(), unit.storage.residual.clone()) for unit in momentum._units if unit.slots]
    generator = torch.Generator(where).manual_seed(0)
    moved = 0
    for _ in range(UPDATES):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, device=where), alpha=1e-3)
        momentum.update()
        for unit, value, residual in expected:
            _reference(value, residual, momentum._local_student(unit), 0.995)
    different = 0
    for unit, value, residual in expected:
        different += int((unit.storage.sent != value).sum() + (unit.storage.residual != residual).sum())
        moved += value.numel()
    yield Row(f"weights of {moved:,} whose bits differ after {UPDATES} updates", float(different), at_most=0)


def _reference(value: Tensor, residual: Tensor, student: Tensor, decay: float) -> None:
    exact = momentum_storage._sum(value, residual).lerp_(student, 1.0 - decay)
    momentum_storage._split(exact, value, residual)


def golden(context: Context) -> Iterator[Row]:
    """The released code's golden pretraining cases in fp32 within their bounds, and in bf16 autocast within wider ones."""
    where = exact_device(context)
    for name in GOLDEN_CASES:
        report = run_case(GoldenCase(GOLDEN, name), "fp32", ComputeConfig(), device=where)
        for quantity, (deviation, bound) in report.worst.items():
            yield Row(f"{name}, fp32: {quantity}", deviation, at_most=bound)
    report = run_case(GoldenCase(GOLDEN, GOLDEN_CASES[0]), "fp32", ComputeConfig(), device=where, autocast=True)
    for quantity, (deviation, _) in report.worst.items():
        bound = next((b for word, b in BF16_BOUNDS.items() if quantity.startswith(word)), BF16_ARRAY_BOUND)
        yield Row(f"{GOLDEN_CASES[0]}, bf16: {quantity}", deviation, at_most=None if quantity in UNBOUNDED else bound)
