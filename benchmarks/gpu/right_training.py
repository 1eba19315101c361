"""Checks of training: every way to compute against the plain form, and DeepSpeed against the plain engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from albef_ds.config.schema import ComputeConfig, RunConfig
from benchmarks.gpu.common import SCHEDULE, build, compared_config, exact_device, free_memory, worst
from benchmarks.gpu.rows import Context, Row
from benchmarks.step import batch_of

STEPS, CPU_STEPS, RATE = 10, 3, 1e-4
LOSS_BOUND = 1e-4
"""Relative. On a CPU every form stays below 3e-6 over ten steps; a GPU adds up in other orders."""
FORMS = {
    "losses by slices": ComputeConfig(wide_losses="sliced"),
    "losses in Triton": ComputeConfig(wide_losses="triton"),
    "momentum model on its own stream": ComputeConfig(momentum_stream=True),
    "padding left out": ComputeConfig(packed_text=True),
    "everything recomputed": ComputeConfig(checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True),
    "attention by plain products": ComputeConfig(attention="plain"),
}
OVERFLOW_BOUND = 0.01
"""In learning rates; benchmarks/engines.md has at most 0.0036."""
LOW_BOUND = 5e-2
"""Relative deviation of a loss in bf16 from fp32."""


def trained(config: RunConfig, compute: ComputeConfig, device: torch.device) -> list[float]:
    """The losses and gradient norms of ten steps (on a CPU three) from the same start, all in one list."""
    torch.manual_seed(0)
    engine = build(config, compute, device, autocast=False)
    batch, found = batch_of(config, "cc12m").to(device), []
    for _ in range(STEPS if device.type == "cuda" else CPU_STEPS):
        result = engine.train_step([batch], SCHEDULE, RATE)
        found += [*result.losses.values(), result.grad_norm]
    del engine
    free_memory(device)
    return found


def forms(context: Context) -> Iterator[Row]:
    """Losses and gradient norms of ten steps of each form, in fp32, against the plain form's."""
    device, config = exact_device(context), compared_config(context)
    reference = trained(config, ComputeConfig(), device)
    yield Row("loss of the last step, plain", sum(reference[-4:-1]))
    for name, compute in FORMS.items():
        if name == "losses in Triton":
            try:
                import triton  # noqa: F401  (optional package)
            except ImportError:
                yield Row(name, "not run: triton is not installed")
                continue
        found = trained(config, compute, device)
        yield Row(f"{name}: largest relative deviation of losses and norms", worst(found, reference), at_most=LOSS_BOUND)


def compiled(context: Context) -> Iterator[Row]:
    """The same for compiled blocks, without and with recomputation."""
    device, config = exact_device(context), compared_config(context)
    reference = trained(config, ComputeConfig(), device)
    recomputed = ComputeConfig(compile=True, checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
    ways = [("compiled and recomputed", recomputed), ("compiled", ComputeConfig(compile=True))]
    for name, compute in ways if context.device == "cuda" else ways[:1]:
        found = trained(config, compute, device)
        yield Row(f"{name}: largest relative deviation of losses and norms", worst(found, reference), at_most=LOSS_BOUND)


def zero(context: Context) -> Iterator[Row]:
    """ZeRO 0 to 3 in fp32 with the sharded momentum model on one rank against the plain engine, and stages 2 and 3 in bf16."""
    from tests.engine.zero.common import largest_difference, run_steps, tiny_config, with_engine  # optional package: DeepSpeed

    device, steps = exact_device(context), STEPS if context.device == "cuda" else CPU_STEPS
    name = {"device": context.device}
    # Both with the sharded momentum model, whose forward pass has fp16 weights.
    local = with_engine(tiny_config(), kind="local", momentum_storage="value_residual", **name)
    plain = run_steps(local, steps, device=device)
    expected = _numbers(plain)
    for stage in (0, 1, 2, 3):
        found = run_steps(
            with_engine(tiny_config(), stage=stage, momentum_storage="value_residual", **name), steps, device=device
        )
        yield Row(f"stage {stage}: losses, relative", worst(_numbers(found), expected), at_most=LOSS_BOUND)
        for part in ("student", "momentum"):
            difference = largest_difference(found[part], _on_cpu(plain[part]))
            # AdamW turns the rounding of a gradient near 0 into a step of up to the learning rate, 1e-3.
            yield Row(f"stage {stage}: weights of the {part}, absolute", difference, at_most=4e-4)
    for stage in (2, 3) if context.device == "cuda" else ():
        low = with_engine(tiny_config(), stage=stage, precision="bf16", momentum_storage="value_residual", **name)
        found = run_steps(low, steps, device=device)
        yield Row(f"stage {stage} in bf16: losses, relative", worst(_numbers(found), expected), at_most=LOW_BOUND)


def _numbers(run: dict[str, Any]) -> list[float]:
    return [value for step in run["losses"] for value in step.values()]


def _on_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def overflow(context: Context) -> Iterator[Row]:
    """Fifty AdamW steps in fp16, one of them with an infinite gradient, against AdamW as published without that step."""
    from albef_ds.engine.zero.setup import init_distributed  # optional package: DeepSpeed
    from benchmarks.engines import STEPS as ALL_STEPS
    from benchmarks.engines import deviation, published, run_of_gradients

    device = exact_device(context)
    init_distributed(device)
    run = run_of_gradients(ALL_STEPS, 1, skipped=True)
    expected = published(run, 1.0)
    for stage in (0, 2, 3):
        found, skipped = deviation(stage, "fp16", 1.0, run, expected, device)
        yield Row(f"stage {stage}: skipped steps of {ALL_STEPS}", float(skipped), at_most=1, at_least=1)
        yield Row(f"stage {stage}: deviation after them, in learning rates", found, at_most=OVERFLOW_BOUND)
