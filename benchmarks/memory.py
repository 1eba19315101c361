"""Peak memory per rank: ZeRO stages 0 to 3 with sharded momentum, compared with plain DDP and an unsharded fp32 momentum model.

    python -m benchmarks.memory --model base --ranks 1 2 --out benchmarks/memory
    python -m benchmarks.memory --model large --ranks 2 --only "stage 3, offload" --out benchmarks/memory_large

Each case starts fresh gloo ranks, makes two optimizer steps (`large`: one) on a mock batch and reads the peak resident memory of
the process, minus the amount before the model was built. Resident memory includes what the allocator keeps; a GPU's peak
differs, but the ratios carry over.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from albef_ds.common import comm
from albef_ds.config.recipes.pretrain import pretrain_4m
from albef_ds.config.recipes.scale import pretrain_large
from albef_ds.config.schema import ComputeConfig, RunConfig
from albef_ds.data import mock
from albef_ds.engine import build
from albef_ds.engine.optim import parameter_groups
from albef_ds.engine.zero.setup import init_distributed
from albef_ds.models.momentum import DenseMomentum
from benchmarks.record import record_parser, write_record
from tests.distributed import run_ranks

CPU = torch.device("cpu")
SCHEDULE = {"alpha": 0.4, "random_negatives": 0.0}
RECOMPUTE = ComputeConfig(checkpoint_visual=True, checkpoint_text=True, checkpoint_multimodal=True)
GB = 2**30


@dataclass(frozen=True)
class Case:
    """One row of the record; `stage` None is plain DDP."""

    name: str
    stage: int | None
    recompute: bool
    offload: bool = False


def cases(only: str) -> list[Case]:
    """All cases whose name contains `only`."""
    found = []
    for recompute in (False, True):
        suffix = ", recomputed" if recompute else ""
        found.append(Case(f"plain DDP, fp32 momentum{suffix}", None, recompute))
        found += [Case(f"stage {stage}{suffix}", stage, recompute) for stage in range(4)]
    found.append(Case("stage 3, offload, recomputed", 3, True, offload=True))
    return [case for case in found if only in case.name]


def configuration(case: Case, model: str, micro_batch: int, world_size: int, folder: str) -> RunConfig:
    """The recipe of `model` with the ZeRO file of `case` and buckets of 20M elements."""
    config = {"base": pretrain_4m, "large": pretrain_large}[model]()
    engine = replace(config.engine, kind="zero", device="cpu", precision=precision(model), stage=case.stage or 0)
    if case.stage:
        knobs: dict[str, Any] = {"reduce_bucket_size": 20_000_000, "overlap_comm": False}
        if case.stage < 3:
            knobs["allgather_bucket_size"] = 20_000_000
        else:
            knobs |= {"stage3_prefetch_bucket_size": 10_000_000, "stage3_max_live_parameters": 40_000_000}
            knobs |= {"stage3_max_reuse_distance": 40_000_000}
        if case.offload:
            knobs |= {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
        file = Path(folder) / f"{case.stage}{case.offload}.json"
        if comm.rank() == 0:
            file.write_text(json.dumps({"zero_optimization": knobs}))
        comm.barrier()
        engine = replace(engine, ds_config=str(file))
    return replace(
        config,
        engine=engine,
        compute=RECOMPUTE if case.recompute else ComputeConfig(),
        train=replace(config.train, micro_batch_size=micro_batch, global_batch_size=micro_batch * world_size),
    )


def precision(model: str) -> Literal["fp32", "bf16"]:
    """fp32 for `base`, for comparison with plain DDP; the recipe's precision for `large`."""
    return "fp32" if model == "base" else "bf16"


def _status(name: str) -> int:
    """The value of a line of /proc/self/status in bytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


def _ddp_step(config: RunConfig) -> Any:
    """One step of plain DDP: unsharded weights, gradients, optimizer state and fp32 momentum model on every rank."""
    task = build.build_task(config)
    task.attach_momentum(DenseMomentum(task.base, config.task.momentum))
    wrapped: nn.Module = DistributedDataParallel(task) if comm.world_size() > 1 else task
    optimizer = torch.optim.AdamW(parameter_groups(task, config.optim), lr=1e-4, fused=True)
    task.train()

    def step() -> None:
        losses, _ = wrapped(mock.pairs(config), **SCHEDULE)
        task.total(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        task.momentum.update()
        task.after_step()

    return task, step


def _zero_step(config: RunConfig) -> Any:
    task = build.build_task(config, config.engine.precision)
    build.attach_momentum(task, config)
    engine = build.build_engine(task, config, CPU, config.engine.precision)
    task.train()
    return task, lambda: engine.train_step([mock.pairs(config)], SCHEDULE, 1e-4)


def measure(case: Case, model: str, micro_batch: int, steps: int, folder: str) -> dict[str, float]:
    """On each rank, in GB: peak of construction and of the steps, size of the momentum model; and seconds of the last step."""
    init_distributed(CPU)
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    config = configuration(case, model, micro_batch, comm.world_size(), folder)
    task, step = _ddp_step(config) if case.stage is None else _zero_step(config)
    construction = _status("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(steps):
        started = time.perf_counter()
        step()
    momentum = task.momentum
    shards = momentum.num_bytes if hasattr(momentum, "num_bytes") else sum(p.nbytes for p in momentum.modules.parameters())
    return {
        "construction": construction / GB,
        "peak": (_status("VmHWM") - before) / GB,
        "momentum": shards / GB,
        "gathered": getattr(momentum, "max_gathered_elements", 0) / 1e6,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Measures, and writes the record after each case."""
    parser = record_parser(__doc__)
    parser.add_argument("--model", choices=("base", "large"), default="base")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--only", default="", help="measure the cases whose name contains this")
    arguments = parser.parse_args()
    os.environ["MALLOC_TRIM_THRESHOLD_"] = "0"  # freed memory is returned, so that a peak counts live memory
    steps = 1 if arguments.model == "large" else 2
    rows: list[dict[str, Any]] = []
    plain: dict[tuple[int, bool], float] = {}
    for world_size in arguments.ranks:
        for case in cases(arguments.only):
            with tempfile.TemporaryDirectory() as folder:
                settings = (case, arguments.model, arguments.micro_batch, steps, folder)
                ranks = run_ranks(measure, world_size, *settings, timeout=1800, fresh=True)
            worst = {name: max(rank[name] for rank in ranks) for name in ranks[0]}
            if case.stage is None:
                plain[world_size, case.recompute] = worst["peak"]
            reference = plain.get((world_size, case.recompute))
            rows.append(
                {
                    "ranks": world_size,
                    "setting": case.name,
                    "peak of the steps, GB": f"{worst['peak']:.2f}",
                    "of plain DDP": f"{worst['peak'] / reference:.2f}" if reference else "",
                    "peak of construction, GB": f"{worst['construction']:.2f}",
                    "momentum model, GB": f"{worst['momentum']:.3f}",
                    "momentum parameters gathered at once, M": f"{worst['gathered']:.0f}" if worst["gathered"] else "all",
                    "last step, s": f"{worst['seconds']:.0f}",
                }
            )
            notes = [
                f"ALBEF {arguments.model}, micro-batch {arguments.micro_batch}, {precision(arguments.model)}, CPU ranks over",
                f"gloo, {steps} optimizer step(s); the largest over the ranks. Resident memory minus that of the process with",
                "its libraries loaded. Seconds are from a machine that also did other work.",
            ]
            write_record(arguments.out, f"Peak memory per rank, ALBEF {arguments.model}", notes, rows, ["torch", "deepspeed"], {})


if __name__ == "__main__":
    main()
