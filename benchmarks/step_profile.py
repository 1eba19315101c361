"""What a CPU spends a step of the base model on, and how fast it multiplies the step's matrices by MKL and by oneDNN.

    OMP_NUM_THREADS=1 python -m benchmarks.step_profile --out benchmarks/step_profile

The shares are CPU time of operators, without the operators that they call, in one step of the form with the exact savings. The
products are timed alone: torch multiplies fp32 by MKL; oneDNN is what it would take for bf16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from albef_ds.config.schema import ComputeConfig
from benchmarks.record import record_parser, write_record
from benchmarks.step import SCHEDULE, Variant, base_config, batch_of, build

KINDS = {
    "products of matrices": ("aten::addmm", "aten::mm"),
    "attention": ("aten::bmm", "aten::baddbmm", "aten::_softmax", "aten::_scaled_dot_product", "aten::_softmax_backward"),
    "AdamW, momentum update, norm": ("aten::_fused_adamw_", "aten::lerp_", "aten::linalg_vector_norm", "aten::_foreach"),
    "GELU": ("aten::gelu",),
    "copies": ("aten::cat", "aten::copy_"),
    "LayerNorm": ("aten::native_layer_norm",),
}
REPETITIONS = 15


def kind_of(name: str) -> str:
    """The kind of an operator, by the beginning of its name."""
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), "everything else")


def shares(batch: int, tokens: int) -> list[dict[str, Any]]:
    """CPU seconds and share of each kind of operator in the second step of a new engine."""
    config = base_config(batch, tokens)
    engine = build(config, Variant("", ComputeConfig(), False), torch.device("cpu"), None)
    inputs = [batch_of(config, "full")]
    engine.train_step(inputs, SCHEDULE, 0.0)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        engine.train_step(inputs, SCHEDULE, 0.0)
    seconds = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    total = sum(seconds.values())
    return [{"what": kind, "s": round(value, 2), "share, %": round(100 * value / total, 1)} for kind, value in seconds.items()]


def rate(function: Callable[[], object], flops: float) -> float:
    """GFLOP per CPU second of the fastest of some calls."""
    best = float("inf")
    for _ in range(REPETITIONS):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return flops / best / 1e9


def products(batch: int, tokens: int) -> str:
    """A sentence with the rates of the step's products by MKL and by oneDNN."""
    found = []
    for rows, width, columns in ((257 * batch, 768, 3072), (257 * batch, 3072, 768), (tokens * batch, 768, 30522)):
        given, weight = torch.randn(rows, width), torch.randn(columns, width)

        def by_onednn(given: torch.Tensor = given, weight: torch.Tensor = weight) -> object:
            return torch.ops.mkldnn._linear_pointwise(given, weight, None, "none", [], "")

        def by_mkl(given: torch.Tensor = given, weight: torch.Tensor = weight) -> object:
            return F.linear(given, weight)

        rates = [rate(function, 2.0 * rows * width * columns) for function in (by_mkl, by_onednn)]
        found.append(f"{rows} x {width} x {columns}: {rates[0]:.0f} and {rates[1]:.0f}")
    return f"GFLOP/s of products by MKL and by oneDNN: {'; '.join(found)}."


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--batch", type=int, default=4, help="samples per step (%(default)s)")
    parser.add_argument("--tokens", type=int, default=30, help="caption length (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = shares(args.batch, args.tokens)
    notes = [
        f"Base model (ViT-B/16, 256 px; 6 + 6 layers) in fp32, batch {args.batch}, {args.tokens} tokens, one thread, exact "
        "savings, AdamW and momentum update included.",
        products(args.batch, args.tokens),
    ]
    write_record(args.out, "Where a step's time goes on a CPU", notes, rows, ["torch"], {})


if __name__ == "__main__":
    main()
