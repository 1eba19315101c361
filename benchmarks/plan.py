"""Compares planned with real memory: DeepSpeed's on gloo CPU ranks, and that saved by autograd in a forward pass.

    python -m benchmarks.plan --out benchmarks/plan

The checks are those of tests/launch/planning; here every row is recorded.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import record_parser, write_record
from tests.distributed import run_ranks
from tests.launch.planning.census import SETTINGS, few_million, held_at_every_setting, planned, with_setting
from tests.launch.planning.saved import saved_bytes
from tests.launch.planning.test_activations import RECOMPUTE, RELEASED, planned_bytes, small

ACTIVATIONS: list[tuple[str, str, float, dict[str, Any]]] = [
    ("plain attention", "fp32", 0.1, {}),
    ("plain attention", "bf16", 0.1, {}),
    ("fused attention, no dropout", "fp32", 0.0, {"attention": "sdpa"}),
    ("fused attention, no dropout", "bf16", 0.0, {"attention": "sdpa"}),
    ("everything recomputed", "fp32", 0.1, RECOMPUTE),
    ("everything recomputed", "bf16", 0.1, RECOMPUTE),
    ("visual encoder recomputed", "fp32", 0.1, {"checkpoint_visual": True}),
    ("one call per pass", "fp32", 0.1, {"one_fusion_call": False}),
    ("one call per pass, fused attention, no dropout", "fp32", 0.0, {"one_fusion_call": False, "attention": "sdpa"}),
    ("the released code's form", "fp32", 0.1, RELEASED),
]


def row(what: str, part: str, plan: int, real: int) -> dict[str, Any]:
    """One row of the record."""
    ratio = f"{plan / real:.4f}" if real else ("1.0000" if plan == 0 else "inf")
    return {"setting": what, "part": part, "planned, bytes": plan, "real, bytes": real, "planned / real": ratio}


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        config = few_million(Path(folder))
        for world_size in (1, 2):
            ranks = run_ranks(held_at_every_setting, world_size, config, timeout=500, fresh=True)
            for stage, precision in SETTINGS:
                for part, plan in planned(with_setting(config, stage, precision, world_size), world_size).items():
                    real = max(rank[f"{stage} {precision}"][part] for rank in ranks)
                    rows.append(row(f"stage {stage}, {precision}, {world_size} rank(s)", part, plan, real))
    for name, precision, dropout, compute in ACTIVATIONS:
        config = small(precision, dropout, **compute)
        rows.append(row(f"{name}, {precision}", "activations", planned_bytes(config), saved_bytes(config)))
    errors = {
        part: max(abs(float(r["planned / real"]) - 1.0) for r in rows if (r["part"] == "activations") is part)
        for part in (False, True)
    }
    notes = [
        f"Largest error: {errors[False]:.2%} for persistent memory and buckets, {errors[True]:.2%} for activations.",
        "A model of 2.8M parameters under DeepSpeed on gloo CPU ranks, the largest rank, right after the second backward pass;",
        "activations of one forward pass of a smaller model: distinct storages saved for backward, without parameters.",
    ]
    write_record(arguments.out, "Planned memory against real memory", notes, rows, ["torch", "deepspeed"], {})


if __name__ == "__main__":
    main()
