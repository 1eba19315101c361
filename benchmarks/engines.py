"""Compares AdamW in every engine (stage x precision x clipping x accumulation x a skipped step) with the published algorithm.

The loss is linear in the weights, so the gradients are known numbers, and an engine's steps can be compared with AdamW as
published (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2) in fp64. A cell is the largest deviation of a weight's fp32
master after all steps, in learning rates.

python -m benchmarks.engines --out benchmarks/engines
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from albef_ds.config.schema import EngineConfig, OptimConfig, RunConfig, TrainConfig
from albef_ds.engine.interface import Engine
from albef_ds.engine.local import LocalEngine
from albef_ds.tasks.base import Task
from benchmarks.record import record_parser, write_record

STEPS = 50
RATE = 1e-3
ENGINES = ("local", 0, 1, 2, 3)
PRECISIONS = ("fp32", "bf16", "fp16")
SHAPES = {"matrix": (7, 5), "other": (3, 11), "bias": (13,), "temperature": (1,)}
SETTINGS = OptimConfig(name="torch", learning_rate=RATE, weight_decay=0.1)
_CPU = torch.device("cpu")


class LinearTask(Task):
    """Weights w with the loss sum(w * g), whose gradient is the batch g."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():  # values that bf16 represents exactly
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).bfloat16().float()))

    def forward(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss, in fp32."""
        terms = [(parameter.float() * batch[name]).sum() for name, parameter in self.named_parameters()]
        return {"linear": torch.stack(terms).sum()}, {}


def gradients(step: int, parts: int, finite: bool) -> list[dict[str, Tensor]]:
    """The gradients of a step's micro-batches: multiples of 1/32 up to 2, whose sums are exact in every precision.

    One of them is infinite unless `finite`.
    """
    generator = torch.Generator().manual_seed(1 + step)
    made = [
        {name: torch.randint(-64, 65, shape, generator=generator) / 32 for name, shape in SHAPES.items()} for _ in range(parts)
    ]
    if not finite:
        made[-1]["bias"][0] = torch.inf
    return made


def run_of_gradients(steps: int, parts: int, skipped: bool) -> list[list[dict[str, Tensor]]]:
    """The gradients of a run; where a step is to be skipped, those two fifths into it are not finite."""
    return [gradients(step, parts, not skipped or step != 2 * steps // 5) for step in range(steps)]


def published(run: list[list[dict[str, Tensor]]], clip_norm: float) -> dict[str, Tensor]:
    """The weights after all steps by AdamW as published, in fp64."""
    weights = {name: parameter.detach().double() for name, parameter in LinearTask().named_parameters()}
    first, second = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    count = 0
    for made in run:
        means = {name: torch.stack([part[name].double() for part in made]).mean(dim=0) for name in weights}
        norm = torch.stack([mean.norm() for mean in means.values()]).norm()
        if not norm.isfinite():
            continue
        count += 1
        scale = min(1.0, clip_norm / (float(norm) + 1e-6)) if clip_norm else 1.0
        for name, weight in weights.items():
            g = means[name] * scale
            first[name] = SETTINGS.beta1 * first[name] + (1 - SETTINGS.beta1) * g
            second[name] = SETTINGS.beta2 * second[name] + (1 - SETTINGS.beta2) * g**2
            mean, spread = first[name] / (1 - SETTINGS.beta1**count), second[name] / (1 - SETTINGS.beta2**count)
            decay = SETTINGS.weight_decay if weight.dim() > 1 else 0.0
            weights[name] = weight - RATE * (mean / (spread.sqrt() + SETTINGS.eps) + decay * weight)
    return weights


def deviation(
    kind: str | int,
    precision: str,
    clip_norm: float,
    run: list[list[dict[str, Tensor]]],
    expected: dict[str, Tensor],
    device: torch.device = _CPU,
) -> tuple[float, int]:
    """Largest deviation from `expected` in learning rates, and number of skipped steps, in this rank's group."""
    engine, count = _engine(kind, precision, clip_norm, len(run[0]), device), 0
    for made in run:
        count += engine.train_step([{name: g.to(device) for name, g in part.items()} for part in made], {}, RATE).skipped
    found = engine.full_state_dict()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / RATE, count


def _engine(kind: str | int, precision: str, clip_norm: float, parts: int, device: torch.device) -> Engine:
    optim = replace(SETTINGS, clip_norm=clip_norm)
    if kind == "local":
        return LocalEngine(LinearTask(), optim, device, autocast=precision == "bf16")
    # optional package: the plain engine runs without DeepSpeed
    from deepspeed.accelerator import get_accelerator

    from albef_ds.common import comm
    from albef_ds.engine.zero.engine import ZeroEngine
    from albef_ds.engine.zero.setup import deepspeed_config

    # DeepSpeed refuses processors without fp16 arithmetic, but torch computes fp16 on them.
    get_accelerator().is_fp16_supported = lambda: True
    train = TrainConfig(micro_batch_size=2, global_batch_size=2 * parts * comm.world_size())
    config = RunConfig(optim=optim, train=train, engine=EngineConfig(kind="zero", stage=int(kind), precision=precision))  # type: ignore[arg-type]
    ds_config = deepspeed_config(config, precision, comm.world_size())
    if precision == "fp16":  # a scale at which these gradients do not overflow, so that every engine takes every step
        ds_config["fp16"]["initial_scale_power"] = 8
    return ZeroEngine(LinearTask(), config, ds_config, device)


def cells(
    engines: tuple[str | int, ...] = ENGINES, precisions: tuple[str, ...] = PRECISIONS, steps: int = STEPS
) -> Iterator[dict[str, Any]]:
    """One row per combination of precision, clipping, accumulation and skipping, with a column per engine."""
    for precision, clip_norm, parts, skipped in product(precisions, (0.0, 1.0), (1, 4), (False, True)):
        names = ("precision", "clipping", "accumulation", "skipped steps")
        row: dict[str, Any] = dict(zip(names, (precision, clip_norm, parts, int(skipped)), strict=True))
        run = run_of_gradients(steps, parts, skipped)
        expected = published(run, clip_norm)
        for kind in engines:
            if kind == "local" and precision == "fp16":
                row["local"] = None  # it has no loss scaling and refuses fp16
                continue
            row[kind if kind == "local" else f"stage {kind}"], count = deviation(kind, precision, clip_norm, run, expected)
            assert count == skipped, f"{kind} skipped {count} steps: {row}"
        yield row


def _shown(name: str, value: Any) -> Any:
    if value is None:
        return "-"
    return f"{value:.1e}" if name == "local" or name.startswith("stage") else value


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    arguments = parser.parse_args()
    from albef_ds.engine.zero.setup import init_distributed

    init_distributed(_CPU)
    rows = [{name: _shown(name, value) for name, value in row.items()} for row in cells()]
    notes = [
        f"{STEPS} AdamW steps at a learning rate of {RATE:g}, weight decay {SETTINGS.weight_decay:g}, one rank. Cells: the",
        "largest deviation of an fp32 weight from AdamW as published in fp64, in learning rates. A step with non-finite",
        "gradients is skipped. The plain engine has no loss scaling and refuses fp16. DeepSpeed refuses fp16 on this processor;",
        "its check is disabled here, because torch computes fp16 on it.",
    ]
    write_record(arguments.out, "AdamW in every engine", notes, rows, ["torch", "deepspeed"], {"device": "cpu"})


if __name__ == "__main__":
    main()
