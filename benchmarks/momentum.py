"""Bytes of the momentum model per rank at 1, 2 and 4 ranks, base size, compared with an unsharded fp32 copy.

python -m benchmarks.momentum --out benchmarks/momentum
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from albef_ds.common import comm
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.engine import build
from albef_ds.engine.zero.momentum import ShardedMomentum
from albef_ds.engine.zero.setup import init_distributed
from benchmarks.record import record_parser, write_record
from tests.distributed import run_ranks


def measure() -> dict[str, int]:
    """On each rank: parameters with a momentum copy, bytes of the shards, bytes of the largest gathered unit."""
    init_distributed(torch.device("cpu"))
    config = pretrain_4m()
    train = replace(config.train, micro_batch_size=2, global_batch_size=2 * comm.world_size())
    config = replace(config, train=train, engine=replace(config.engine, stage=3, device="cpu", precision="fp32"))
    task = build.build_task(config, "fp32")
    build.attach_momentum(task, config)
    momentum = task.momentum
    assert isinstance(momentum, ShardedMomentum)
    elements = sum(slot.shape.numel() for unit in momentum._units for slot in unit.slots)
    return {"elements": elements, "shards": momentum.num_bytes, "unit": momentum.largest_unit_bytes()}


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for world_size in arguments.ranks:
        ranks = run_ranks(measure, world_size, timeout=900, fresh=True)
        found = {name: max(rank[name] for rank in ranks) for name in ranks[0]}
        rows.append(
            {
                "ranks": world_size,
                "bytes per rank": f"{found['shards']:,}",
                "x ranks / (4 x parameters)": f"{found['shards'] * world_size / (4 * found['elements']):.6f}",
                "whole fp32 copy, bytes": f"{4 * found['elements']:,}",
                "largest unit while whole (fp32), bytes": f"{found['unit']:,}",
            }
        )
    notes = [
        "fp16 value and fp16 residual, 4 bytes per parameter over all ranks. The excess over 1 in the third column is padding.",
        "While it computes, at most three messages are held at a time (tests/engine/zero/test_momentum_gather.py).",
    ]
    write_record(arguments.out, "The momentum model's bytes per rank, ALBEF base", notes, rows, ["torch", "deepspeed"], {})


if __name__ == "__main__":
    main()
