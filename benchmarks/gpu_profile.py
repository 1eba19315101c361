"""Profiles one GPU in under eight minutes, unattended: images per second, utilisation, memory, and time by kind of kernel.

    python -m benchmarks.gpu_profile --out benchmarks/gpu_profile

Not yet run on a GPU: it is tested with `--device cpu --model tiny`. Sections run in order of importance, and one that would
begin after `--minutes` is reported as left out; a failed one is reported with its reason, and the record is written after each.
Utilisation is the model's FLOPs (no recomputation, `albef_ds/launch/planning/flops.py`) over the rate of a bf16 matrix product
of size 8,192, which is measured first, and over `--peak` if given.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from albef_ds.config.recipes.debug import debug
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.config.schema import ComputeConfig, ModelConfig, RunConfig
from albef_ds.engine.build import build_task
from albef_ds.engine.local import LocalEngine
from albef_ds.launch.planning.flops import step_flops
from albef_ds.models.losses.contrastive import contrastive_loss
from albef_ds.models.losses.distillation import distilled_cross_entropy
from albef_ds.models.losses.sliced import TORCH, TRITON, SlicedForm, soft_cross_entropy
from albef_ds.models.losses.sliced_problem import LogitTeacher, Positives
from albef_ds.models.losses.wide import SlicedLosses
from albef_ds.models.momentum import DenseMomentum
from benchmarks.rates import finish, rate_of_products
from benchmarks.record import record_parser, write_record
from benchmarks.step import PLAIN, batch_of

KINDS = {
    "attention": ("flash", "fmha", "attention", "mem_eff", "sdpa"),
    "matrix products": ("gemm", "cutlass", "nvjet", "matmul", "addmm", "::mm", "::bmm", "wgmma", "conv"),
    "norms and softmax": ("layer_norm", "layernorm", "softmax", "group_norm", "gammabeta", "cucompute"),
    "optimizer and momentum": ("adam", "multi_tensor", "foreach", "lerp"),
    "copies": ("memcpy", "memset", "copy", "cat", "index", "gather"),
}
"""Kind of kernel -> parts of its name; all other kernels are element-wise or small."""


@dataclass(frozen=True)
class Variant:
    """A way to compute a step."""

    name: str
    compute: ComputeConfig
    batch: int


def build(config: RunConfig, compute: ComputeConfig, device: torch.device) -> LocalEngine:
    """The model with a full queue, in bf16 autocast on a GPU."""
    task = build_task(replace(config, compute=compute))
    task.attach_momentum(DenseMomentum(task.base, config.pretraining().momentum))
    return LocalEngine(task.train(), config.optim, device, autocast=device.type == "cuda")


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """`config` with another micro-batch."""
    return replace(config, train=replace(config.train, micro_batch_size=batch, global_batch_size=batch))


def measure(config: RunConfig, variant: Variant, device: torch.device, steps: int) -> tuple[LocalEngine, Any, float, int]:
    """Engine, batch, median seconds of a step, and the peak of allocated bytes (0 on a CPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    engine = build(config, variant.compute, device)
    batch = batch_of(with_batch(config, variant.batch), "full").to(device)
    seconds = []
    for number in range(steps + 2):
        finish(device)
        start = time.perf_counter()
        engine.train_step([batch], {"alpha": 0.4}, 1e-4)
        finish(device)
        if number >= 2:
            seconds.append(time.perf_counter() - start)
    return engine, batch, statistics.median(seconds), torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def kernel_shares(engine: LocalEngine, batch: Any, device: torch.device) -> dict[str, float]:
    """Kind of kernel -> share of the device's busy time in one step."""
    activities = [ProfilerActivity.CUDA] if device.type == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        engine.train_step([batch], {"alpha": 0.4}, 1e-4)
        finish(device)
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        own = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "element-wise and others")
        spent[kind] += own
    total = max(1.0, sum(spent.values()))
    return {kind: time_spent / total for kind, time_spent in spent.most_common()}


def triton_rows(device: torch.device, batch: int, queue: int, model: ModelConfig) -> list[dict[str, Any]]:
    """Compares the fused losses with torch's forms: largest differences of loss and gradients, and time."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    features, teacher, keys = (F.normalize(draw(rows, model.embed_dim), dim=1) for rows in (batch, batch, batch + queue))
    mask = torch.eye(batch, batch + queue, dtype=torch.bool, device=device)
    contrast: dict[str, Callable[..., Any]] = {
        "torch, whole rows": lambda x, t: contrastive_loss(x, teacher, keys, mask, t, 0.4)[0],
        "torch, slices": lambda x, t: SlicedLosses(TORCH).contrastive(x, teacher, keys, mask, t, 0.4, batch)[0],
        "Triton": lambda x, t: SlicedLosses(TRITON).contrastive(x, teacher, keys, mask, t, 0.4, batch)[0],
    }
    tokens, vocabulary = 4 * batch, model.text.vocab_size
    labels, teacher_logits = torch.randint(0, vocabulary, (tokens,), generator=generator).to(device), draw(tokens, vocabulary)
    one = torch.ones(1, device=device)

    def words(hidden: Tensor, matrix: Tensor, bias: Tensor, form: SlicedForm) -> Tensor:
        target = (Positives(labels=labels), LogitTeacher(teacher_logits), 0.4)
        return soft_cross_entropy(hidden, matrix, bias, one, *target, form=form).sum()

    mlm: dict[str, Callable[..., Any]] = {
        "torch, whole rows": lambda h, w, b: distilled_cross_entropy(F.linear(h, w, b), labels, teacher_logits, 0.4).sum(),
        "torch, slices": partial(words, form=TORCH),
        "Triton": partial(words, form=TRITON),
    }
    width = model.text.width
    inputs = [draw(tokens, width), 0.02 * draw(vocabulary, width), torch.zeros(vocabulary, device=device)]
    itc = f"ITC, one direction, batch {batch}, queue {queue}"
    rows = compared(itc, contrast, [features, torch.full((1,), 0.07, device=device)], device)
    return rows + compared(f"MLM, {tokens} tokens, vocabulary {vocabulary}", mlm, inputs, device)


def compared(
    title: str, forms: dict[str, Callable[..., Any]], inputs: list[Tensor], device: torch.device
) -> list[dict[str, Any]]:
    """One row per form; the first form is the reference for the others."""
    rows, reference = [], None
    for name, loss_of in forms.items():
        best = float("inf")
        for _ in range(4):
            leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
            finish(device)
            start = time.perf_counter()
            loss = loss_of(*leaves)
            gradients = torch.autograd.grad(loss, leaves)
            finish(device)
            best = min(best, time.perf_counter() - start)
        found = [loss.detach(), *gradients]
        reference = found if reference is None else reference
        errors = [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in zip(found, reference, strict=True)]
        result = f"relative error of loss {errors[0]:.1e}, of gradients {max(errors[1:]):.1e}"
        rows.append({"part": f"{title}: {name}", "ms": f"{1e3 * best:.2f}", "result": result})
    return rows


def main() -> None:
    """Measures within the time limit and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--model", choices=("base", "tiny"), default="base")
    parser.add_argument("--batch", type=int, default=64, help="micro-batch (%(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="timed steps per variant (%(default)s)")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin nothing after so long (%(default)s)")
    parser.add_argument("--peak", type=float, default=0.0, help="the maker's dense bf16 TFLOP/s")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here: give --device cpu --model tiny to try the program itself")
    device, start = torch.device(arguments.device), time.monotonic()
    config = pretrain_4m() if arguments.model == "base" else debug()
    config = replace(config, task=replace(config.pretraining(), mask_unfilled_queue=False))
    ceiling = rate_of_products(device, *(torch.bfloat16, 8192) if device.type == "cuda" else (torch.float32, 512))
    own, size = config.compute, arguments.batch
    recomputed = replace(own, checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
    variants = [
        Variant("as configured", own, size),
        Variant("as released", PLAIN, size),
        Variant("twice the batch", own, 2 * size),
        Variant("everything recomputed", recomputed, 2 * size),
        Variant("losses by slices", replace(own, wide_losses="sliced"), size),
        Variant("momentum model on its own stream", replace(own, momentum_stream=True), size),
    ]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU: a test of the program, no figures to quote"
    rows: list[dict[str, Any]] = []

    def write(quiet: bool = True) -> None:
        notes = [
            f"{name}. Measured rate of a matrix product: {ceiling / 1e12:.2f} TFLOP/s. {arguments.model} model, "
            f"{config.text_length} tokens, {'bf16 autocast' if device.type == 'cuda' else 'fp32'}, AdamW and momentum "
            "included; utilisation counts the FLOPs of the exact savings whatever a variant spends. "
            f"{(time.monotonic() - start) / 60:.1f} minutes.",
        ]
        facts = {"device": name, "ceiling": ceiling}
        write_record(arguments.out, "Profile of one device", notes, rows, ["torch"], facts, quiet=quiet)

    def attempt(part: str, measured: Callable[[], Iterable[dict[str, Any]]]) -> None:
        """Adds a part's rows, or the reason why there are no more; earlier measurements are always kept."""
        if time.monotonic() - start > 60 * arguments.minutes:
            rows.append({"part": part, "ms": "", "result": "left out: out of time"})
        else:
            already = len(rows)
            try:
                for row in measured():
                    rows.append(row)
            except Exception as error:  # any error: the other parts are still useful
                reason = str(error).strip().partition("\n")[0]
                rest = ": the rest" if len(rows) > already else ""
                rows.append({"part": part + rest, "ms": "", "result": f"failed: {type(error).__name__}: {reason}"})
        write()

    def step(variant: Variant, part: str, with_shares: bool) -> Iterator[dict[str, Any]]:
        engine, batch, seconds, peak = measure(config, variant, device, arguments.steps)
        flops = sum(p.model for p in step_flops(replace(with_batch(config, variant.batch), compute=own), masked=_masked(config)))
        result = f"{variant.batch / seconds:.0f} images/s, {flops / seconds / ceiling:.1%} of the measured product rate"
        if arguments.peak:
            result += f", {flops / seconds / arguments.peak / 1e12:.1%} of the peak"
        yield {"part": part, "ms": f"{1e3 * seconds:.1f}", "result": f"{result}, peak {peak / 2**30:.2f} GB"}
        shares = kernel_shares(engine, batch, device) if with_shares else {}
        for kind, share in shares.items():
            yield {"part": f"kernels of that step: {kind}", "ms": "", "result": f"{share:.1%} of the busy time"}

    for number, variant in enumerate(variants):
        part = f"step, batch {variant.batch}, {variant.name}"
        attempt(part, partial(step, variant, part, number == 0))
    if device.type == "cpu" and not os.environ.get("TRITON_INTERPRET"):
        reason = "left out: on a CPU it needs TRITON_INTERPRET=1"
        attempt("Triton kernels", lambda: [{"part": "Triton kernels", "ms": "", "result": reason}])
    else:
        attempt("Triton kernels", lambda: triton_rows(device, size, config.pretraining().queue_size, config.model))
    write(quiet=False)


def _masked(config: RunConfig) -> float:
    return float(max(1, round(config.data.mlm_probability * (config.text_length - 1))))


if __name__ == "__main__":
    main()
