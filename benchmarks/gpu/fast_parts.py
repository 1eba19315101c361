"""Speed and memory of parts: the losses, the updates, 24 GB, the loader, and one step of the large model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from albef_ds.config.recipes.scale import pretrain_large
from albef_ds.config.schema import ComputeConfig, DataConfig, RunConfig
from albef_ds.data.stream.corpus import ImageTextStream
from albef_ds.data.stream.loader import Share
from albef_ds.engine.build import build_task
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.models.losses.contrastive import contrastive_loss
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.models.losses.sliced import TORCH, TRITON, SlicedForm, soft_cross_entropy
from albef_ds.models.losses.sliced_problem import LogitTeacher, Positives
from albef_ds.models.losses.wide import SlicedLosses
from albef_ds.models.momentum import DenseMomentum
from benchmarks.gpu.common import SCHEDULE, build, device_of, free_memory, measured_config, timed_steps, with_batch
from benchmarks.gpu.fast import COPY_RATE
from benchmarks.gpu.rows import Context, Row
from benchmarks.rates import finish
from benchmarks.step import batch_of

Loss = Callable[..., Tensor]
WHOLE, SLICED, FUSED = "torch, whole rows", "torch, slices", "Triton"
BUDGET = 24 * 2**30
COPY_SHARE = 0.7


def losses(context: Context) -> Iterator[Row]:
    """Time and memory of both losses, forward and backward, by whole rows, by slices and by the Triton kernels."""
    device, config = device_of(context), measured_config(context)
    batch, dtype = config.train.micro_batch_size, torch.bfloat16 if device.type == "cuda" else torch.float32
    for title, forms, inputs in (_itc(config, batch, device), _mlm(config, 4 * batch, device, dtype)):
        found = {name: _cost(loss, inputs, device) for name, loss in forms.items()}
        for name, (seconds, peak) in found.items():
            yield Row(f"{title}, {name}: time", 1e3 * seconds, "ms")
            if peak:
                yield Row(f"{title}, {name}: memory", peak / 2**20, "MiB")
        time_target, memory_target = (1.0, 0.25) if context.real else (None, None)
        yield Row(f"{title}: Triton over whole rows, time", found[FUSED][0] / found[WHOLE][0], at_most=time_target)
        if found[WHOLE][1]:
            share = found[FUSED][1] / found[WHOLE][1]
            yield Row(f"{title}: Triton over whole rows, memory", share, at_most=memory_target)


def _itc(config: RunConfig, batch: int, device: torch.device) -> tuple[str, dict[str, Loss], list[Tensor]]:
    total, width = batch + config.pretraining().queue_size, config.model.embed_dim
    features, teacher, keys = (F.normalize(torch.randn(n, width, device=device), dim=1) for n in (batch, batch, total))
    mask = torch.eye(batch, total, dtype=torch.bool, device=device)

    def sliced(form: SlicedForm, x: Tensor, t: Tensor) -> Tensor:
        return SlicedLosses(form).contrastive(x, teacher, keys, mask, t, 0.4, batch)[0]

    forms: dict[str, Loss] = {
        WHOLE: lambda x, t: contrastive_loss(x, teacher, keys, mask, t, 0.4)[0],
        SLICED: partial(sliced, TORCH),
        FUSED: partial(sliced, TRITON),
    }
    return f"ITC, one direction, {batch} x {total:,}", forms, [features, torch.full((1,), 0.07, device=device)]


def _mlm(config: RunConfig, tokens: int, device: torch.device, dtype: torch.dtype) -> tuple[str, dict[str, Loss], list[Tensor]]:
    words, width = config.model.text.vocab_size, config.model.text.width
    labels = torch.randint(0, words, (tokens,), device=device)
    teacher, one = torch.randn(tokens, words, device=device).to(dtype), torch.ones(1, device=device)

    def sliced(form: SlicedForm, h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return soft_cross_entropy(h, w, b, one, Positives(labels=labels), LogitTeacher(teacher), 0.4, form=form).sum()

    forms: dict[str, Loss] = {
        WHOLE: lambda h, w, b: distilled_cross_entropy(F.linear(h, w, b), labels, teacher, 0.4).sum(),
        SLICED: partial(sliced, TORCH),
        FUSED: partial(sliced, TRITON),
    }
    made = [torch.randn(tokens, width), 0.02 * torch.randn(words, width), torch.zeros(words)]
    return f"MLM, {tokens} x {words:,}", forms, [tensor.to(device, dtype) for tensor in made]


def _cost(loss: Loss, inputs: list[Tensor], device: torch.device) -> tuple[float, int]:
    """Least seconds of forward and backward, and the peak of bytes beyond the inputs (0 on a CPU)."""
    best, peak = float("inf"), 0
    for _ in range(10 if device.type == "cuda" else 1):
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        finish(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        start = time.perf_counter()
        torch.autograd.grad(loss(*leaves), leaves)
        finish(device)
        best = min(best, time.perf_counter() - start)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() - held
    return best, peak


def updates(context: Context) -> Iterator[Row]:
    """Time and bandwidth of the momentum update, dense and as value and residual, and of AdamW."""
    device, config = device_of(context), measured_config(context)
    student = build_task(config).base.to(device)
    parameters = list(student.parameters())
    numel = sum(parameter.numel() for parameter in parameters)
    dense, sharded = DenseMomentum(student, 0.995), ShardedMomentum(student, 0.995)
    for momentum in (dense, sharded):
        momentum.to(device)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(parameters, fused=True)
    # Bytes per parameter: student read, copy read and written; AdamW: gradient read, weight and moments read and written.
    copy_rate = context.earlier(COPY_RATE)
    for name, update, size in (
        ("momentum update, dense", dense.update, 12),
        ("momentum update, value and residual", sharded.update, 12),
        ("AdamW", optimizer.step, 28),
    ):
        seconds = _least(update, device)
        yield Row(f"{name}: time", 1e3 * seconds, "ms")
        yield Row(f"{name}: bandwidth", size * numel / seconds / 1e9, "GB/s")
        if copy_rate:
            target = COPY_SHARE if context.real and name.endswith("residual") else None
            yield Row(f"{name}: share of a copy's bandwidth", size * numel / seconds / 1e9 / copy_rate, at_least=target)


def _least(run: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(10 if device.type == "cuda" else 2):
        finish(device)
        start = time.perf_counter()
        run()
        finish(device)
        best = min(best, time.perf_counter() - start)
    return best


def memory(context: Context) -> Iterator[Row]:
    """The largest micro-batch whose step stays inside 24 GB, as configured and with everything recomputed."""
    device, config = device_of(context), measured_config(context)
    own = config.compute
    recomputed = replace(own, checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
    sizes = (32, 48, 64, 80, 96, 128, 160, 192, 256) if context.model == "base" else (4, 8)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, BUDGET / torch.cuda.get_device_properties(0).total_memory))
    for name, compute in (("as configured", own), ("everything recomputed", recomputed)):
        engine, largest = build(config, compute, device, autocast=device.type == "cuda"), 0
        for size in sizes:
            batch = None
            try:
                batch = batch_of(with_batch(config, size), "full").to(device)
                for _ in range(2):  # the second has AdamW's moments
                    engine.train_step([batch], SCHEDULE, 1e-4)
            except torch.OutOfMemoryError:
                break
            largest = size
            free_memory(device)
        target = 64 if context.real and name == "as configured" else None
        yield Row(f"largest micro-batch of {sizes[0]} to {sizes[-1]} inside 24 GB, {name}", float(largest), at_least=target)
        del engine, batch
        free_memory(device)


def loader(context: Context) -> Iterator[Row]:
    """Images per second of the loader's processes, by where images are decoded and views are made, beside the step's."""
    from benchmarks.gpu.right_runs import corpus  # start-up: it imports the command line

    base = context.model == "base"
    device, config = device_of(context), measured_config(context)
    folder = corpus(Path(context.folder) / "corpus", 256 if base else 16)
    workers = min(12, len(os.sched_getaffinity(0)) - 2) if base else 0
    size, count = (64, 40) if base else (8, 2)
    ways: dict[str, dict[str, Any]] = {"views by the loader": {}, "views on the device": {"augment_device": "model"}}
    if context.device == "cuda":
        ways["JPEGs by nvJPEG"] = {"jpeg_device": "cuda"}
    for name, settings in ways.items():
        data = DataConfig(shards=str(folder), num_workers=workers, max_tokens=config.data.max_tokens, **settings)
        source = ImageTextStream(replace(with_batch(config, size), data=data), Share(start_method="spawn" if workers else None))
        batches = iter(source)
        for _ in range(2 * max(1, workers)):  # the processes start
            next(batches).to(device)
        start = time.perf_counter()
        for _ in range(count):
            next(batches).to(device)
        finish(device)
        yield Row(f"{name}, {workers} processes: images/s", count * size / (time.perf_counter() - start))
        source.close()
    for step in ("compiled, 64: images/s", "eager, 64: images/s"):
        if found := context.earlier(step):
            yield Row(f"to be fed, {step}", found)


def large(context: Context) -> Iterator[Row]:
    """One step of `pretrain_large` (0.69B parameters) in bf16 with everything recomputed, on the plain engine."""
    device = device_of(context)
    config = pretrain_large() if context.model == "base" else measured_config(context)
    recomputed = ComputeConfig(checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
    config = with_batch(config, 64 if context.model == "base" else 4)
    engine = build(config, recomputed, device, autocast=device.type == "cuda")
    _, seconds, peak = timed_steps(engine, config, device, 2 if device.type == "cuda" else 1)
    yield Row("parameters", sum(p.numel() for p in engine.task.parameters()) / 1e9, "billions")
    yield Row(f"micro-batch {config.train.micro_batch_size}: images/s", config.train.micro_batch_size / seconds)
    yield Row("peak memory", peak / 2**30, "GiB")
