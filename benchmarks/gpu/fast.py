"""Speed of whole steps beside the device's ceilings: eager, compiled, and as the released algorithm computes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from albef_ds.config.schema import ComputeConfig, RunConfig
from albef_ds.launch.planning.flops import step_flops
from benchmarks.gpu.common import build, device_of, free_memory, kernel_shares, measured_config, timed_steps, with_batch
from benchmarks.gpu.rows import Context, Row
from benchmarks.momentum_update import ReleasedMomentum
from benchmarks.rates import finish, rates_of_products
from benchmarks.step import PLAIN

PRODUCT_RATE, COPY_RATE = "product in bf16", "copy"
UTILISATION = 0.30
"""Share of the measured rate of products that a compiled step of 64 has to reach."""
SPEEDUP = 3.0
"""Over the released algorithm under autocast."""


def ceilings(context: Context) -> Iterator[Row]:
    """Rates of a square matrix product in four precisions, and of a copy within the device's memory."""
    device = device_of(context)
    size, elements = (8192, 2**28) if device.type == "cuda" else (256, 2**20)
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name, rate in zip(kinds, rates_of_products(device, list(kinds.values()), size, times=10), strict=True):
        yield Row(f"product in {name}", rate / 1e12, "TFLOP/s")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        yield Row("product in TF32", rates_of_products(device, [torch.float32], size, times=10)[0] / 1e12, "TFLOP/s")
        torch.backends.cuda.matmul.allow_tf32 = False
    source = torch.zeros(elements, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        finish(device)
        start = time.perf_counter()
        target.copy_(source)
        finish(device)
        best = min(best, time.perf_counter() - start)
    yield Row(COPY_RATE, 2 * source.nbytes / best / 1e9, "GB/s")


def steps_eager(context: Context) -> Iterator[Row]:
    """Images/s, utilisation and peak memory in bf16 at three micro-batches, and where the time of the first goes."""
    yield from _steps(context, measured_config(context).compute, "eager", shares=True)


def steps_compiled(context: Context) -> Iterator[Row]:
    """The same with compiled blocks."""
    yield from _steps(context, replace(measured_config(context).compute, compile=True), "compiled", shares=False)


def _batches(context: Context) -> tuple[int, ...]:
    return (64, 128, 256) if context.model == "base" else (4, 8)


def _steps(context: Context, compute: ComputeConfig, name: str, *, shares: bool) -> Iterator[Row]:
    device, config = device_of(context), measured_config(context)
    # Compiling takes most of a rehearsal's time.
    sizes = _batches(context)[:1] if compute.compile and device.type == "cpu" else _batches(context)
    began = time.monotonic()
    for number, size in enumerate(sizes):
        if time.monotonic() - began > 0.5 * context.seconds:
            yield Row(f"{name}, {size}", "left out: the section's time is half over")
            continue
        at = with_batch(config, size)
        try:
            engine = build(at, compute, device, autocast=device.type == "cuda")
            batch, seconds, peak = timed_steps(engine, at, device, 10 if device.type == "cuda" else 1)
        except torch.OutOfMemoryError:
            yield Row(f"{name}, {size}", "does not fit into memory")
            return
        target = UTILISATION if context.real and name == "compiled" and number == 0 else None
        yield from _figures(context, at, f"{name}, {size}", seconds, peak, target)
        if shares and number == 0:
            for kind, share in kernel_shares(engine, batch, device).items():
                yield Row(f"{name}, {size}: share of {kind}", 100 * share, "%")
        del engine, batch
        free_memory(device)


def _figures(context: Context, config: RunConfig, name: str, seconds: float, peak: int, target: float | None) -> Iterator[Row]:
    images = config.train.micro_batch_size / seconds
    yield Row(f"{name}: images/s", images)
    masked = float(max(1, round(config.data.mlm_probability * (config.data.max_tokens - 1))))
    flops = sum(part.model for part in step_flops(replace(config, compute=measured_config(context).compute), masked=masked))
    ceiling = context.earlier(PRODUCT_RATE)
    if ceiling:
        yield Row(f"{name}: share of the product rate", flops / seconds / ceiling / 1e12, at_least=target)
    if peak:
        yield Row(f"{name}: peak memory", peak / 2**30, "GiB")


def steps_plain(context: Context) -> Iterator[Row]:
    """The released algorithm in fp32 and under bf16 autocast, and how many times faster ours is."""
    device, size = device_of(context), _batches(context)[0]
    config = with_batch(measured_config(context), size)
    for name, autocast in (("released algorithm, fp32", False), ("released algorithm, autocast", True)):
        if autocast and device.type == "cpu":
            continue  # emulated on many processors: minutes
        engine = build(config, PLAIN, device, autocast=autocast, momentum=ReleasedMomentum)
        for group in engine.optimizer.param_groups:
            group.update(fused=False, foreach=False, capturable=device.type == "cuda")
        _, seconds, peak = timed_steps(engine, config, device, 5 if device.type == "cuda" else 1)
        yield from _figures(context, config, f"{name}, {size}", seconds, peak, None)
        ours = context.earlier(f"compiled, {size}: images/s")
        if ours:
            target = SPEEDUP if context.real and autocast else None
            yield Row(f"compiled step over {name}", ours * seconds / size, "x", at_least=target)
        del engine
        free_memory(device)
