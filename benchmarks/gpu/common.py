"""Configurations and measures that several sections use."""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from albef_ds.config.recipes.debug import debug
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.config.schema import ComputeConfig, ModelConfig, RunConfig, TextConfig, VisionConfig
from albef_ds.engine.build import build_task
from albef_ds.engine.local import LocalEngine
from albef_ds.models.compilation import compile_blocks
from albef_ds.models.momentum import DenseMomentum
from benchmarks.gpu.rows import Context
from benchmarks.rates import finish
from benchmarks.step import batch_of

SCHEDULE = {"alpha": 0.4}
WARM_UP = 2
_KINDS = {
    "attention": ("flash", "fmha", "attention", "mem_eff", "sdpa"),
    "matrix products": ("gemm", "cutlass", "nvjet", "matmul", "addmm", "::mm", "::bmm", "wgmma", "conv"),
    "norms and softmax": ("layer_norm", "layernorm", "softmax", "group_norm", "gammabeta", "cucompute"),
    "optimizer and momentum": ("adam", "multi_tensor", "foreach", "lerp"),
    "copies": ("memcpy", "memset", "copy", "cat", "index", "gather"),
}
"""Kind of kernel -> parts of its name; all other kernels are element-wise or small."""


def device_of(context: Context) -> torch.device:
    """The device of a section."""
    return torch.device(context.device)


def exact_device(context: Context) -> torch.device:
    """The device of a section that compares fp32 numbers: TF32 is off, in convolutions too, where torch has it on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return device_of(context)


def measured_config(context: Context) -> RunConfig:
    """Pretraining at the size that is measured, with a full queue."""
    config = pretrain_4m() if context.model == "base" else _tiny()
    return replace(config, task=replace(config.pretraining(), mask_unfilled_queue=False))


def compared_config(context: Context) -> RunConfig:
    """Pretraining at a size that is quick to build, without dropout, so that all ways to compute give the same numbers."""
    config = _tiny()
    if context.model == "base":
        vision = VisionConfig(image_size=128, width=384, depth=4, num_heads=6)
        text = TextConfig(width=384, num_layers=2, num_fusion_layers=2, num_heads=6, intermediate_width=1536)
        config = replace(config, model=ModelConfig(vision=vision, text=text))
        config = with_batch(replace(config, task=replace(config.pretraining(), queue_size=8192)), 32)
    model = replace(config.model, text=replace(config.model.text, dropout=0.0))
    return replace(config, model=model, task=replace(config.pretraining(), mask_unfilled_queue=False))


def _tiny() -> RunConfig:
    config = debug()
    text = replace(config.model.text, vocab_size=211)
    return replace(config, model=replace(config.model, text=text), data=replace(config.data, max_tokens=9))


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """`config` with another micro-batch."""
    return replace(config, train=replace(config.train, micro_batch_size=batch, global_batch_size=batch))


def build(
    config: RunConfig,
    compute: ComputeConfig,
    device: torch.device,
    *,
    autocast: bool,
    momentum: type[DenseMomentum] = DenseMomentum,
) -> LocalEngine:
    """A plain engine with its momentum model; with `compute.compile` its blocks are compiled (a CPU compiles only the graph)."""
    task = build_task(replace(config, compute=compute))
    task.attach_momentum(momentum(task.base, config.pretraining().momentum))
    if compute.compile:
        torch.compiler.reset()  # otherwise another batch size is compiled for all sizes
        compile_blocks(task, backend="inductor" if device.type == "cuda" else "aot_eager")
    return LocalEngine(task.train(), config.optim, device, autocast=autocast)


def timed_steps(engine: LocalEngine, config: RunConfig, device: torch.device, steps: int) -> tuple[Any, float, int]:
    """Batch, median seconds of a step after the warm-up, and the peak of allocated bytes (0 on a CPU)."""
    batch = batch_of(config, "full").to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(steps + WARM_UP):
        finish(device)
        start = time.perf_counter()
        engine.train_step([batch], SCHEDULE, 1e-4)
        finish(device)
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return batch, statistics.median(seconds), torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def free_memory(device: torch.device) -> None:
    """Gives back what nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def kernel_shares(engine: LocalEngine, batch: Any, device: torch.device) -> dict[str, float]:
    """Kind of kernel -> share of the device's busy time in one step."""
    activities = [ProfilerActivity.CUDA] if device.type == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        engine.train_step([batch], SCHEDULE, 1e-4)
        finish(device)
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        name = event.key.lower()
        spent[
            next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), "element-wise and others")
        ] += own
    total = max(1.0, sum(spent.values()))
    return {kind: time_spent / total for kind, time_spent in spent.most_common()}


def worst(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest relative deviation of numbers from those of the reference; infinite for NaN."""
    found = [abs(a - b) / max(abs(b), 1e-6) for a, b in zip(ours, theirs, strict=True)]
    return max(float("inf") if value != value else value for value in found)
