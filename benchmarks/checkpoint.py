"""Time and size of saving and loading a checkpoint of the base-size model.

    python -m benchmarks.checkpoint --model base --ranks 1 2 --stages 2 3 --out benchmarks/checkpoint

Per case: an engine with random weights, whose AdamW state comes from a step with zero gradients; then the copy to CPU memory
(training waits for it), writing with hashes and reading back (in the background of a run), checking every hash, and loading.
All ranks share one disk.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.snapshot import restore, restore_progress
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.common import comm
from albef_ds.config.recipes import get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.engine import build
from albef_ds.engine.zero import optimizer_state
from albef_ds.engine.zero.setup import init_distributed
from benchmarks.record import record_parser, write_record
from tests.distributed import run_ranks
from tests.engine.zero.common import tiny_config, with_engine

CPU = torch.device("cpu")


def config_for(model: str, stage: int, ranks: int) -> RunConfig:
    """`pretrain_4m` (210 million parameters) or the tests' tiny model, fp32 on CPUs."""
    if model == "tiny":
        return with_engine(tiny_config(), stage=stage, momentum_storage="value_residual")
    config = get_recipe("pretrain_4m")
    engine = replace(config.engine, kind="zero", stage=stage, device="cpu", precision="fp32")
    train = replace(config.train, micro_batch_size=2, global_batch_size=2 * ranks)
    return replace(config, engine=engine, train=train, optim=replace(config.optim, name="torch"))


def _measure(model: str, stage: int, work: str) -> dict[str, Any]:
    """Measures one case on this rank."""
    torch.set_num_threads(1)
    init_distributed(CPU)
    config = config_for(model, stage, comm.world_size())
    task = build.build_task(config, "fp32")
    build.attach_momentum(task, config)
    engine = build.build_engine(task, config, CPU, "fp32")
    optimizer_state.prepare_moments(engine.engine)  # type: ignore[attr-defined]
    saver = Saver(Path(work), config)
    saver.root.mkdir(parents=True, exist_ok=True)
    comm.barrier()
    times: dict[str, Any] = {"load average": round(os.getloadavg()[0], 1)}
    started = time.perf_counter()
    saver.start(engine, task, TrainingProgress(config.train, step=1, samples=config.train.global_batch_size), [])
    times["copy to memory, s"] = time.perf_counter() - started
    result = saver.finish()
    assert result is not None and not result.error, result
    times["until whole, s"] = time.perf_counter() - started
    comm.barrier()
    started = time.perf_counter()
    folder = find_checkpoint(Path(work), "auto")
    assert folder is not None
    times["check hashes, s"] = time.perf_counter() - started
    started = time.perf_counter()
    restore_progress(folder, config.train)
    restore(folder, engine, task, config)
    comm.barrier()
    times["load, s"] = time.perf_counter() - started
    times["GB"] = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
    times["millions of parameters"] = sum(getattr(p, "ds_numel", p.numel()) for p in task.parameters()) / 1e6
    return times


def main() -> None:
    """Measures all cases and writes the record."""
    parser = record_parser(__doc__, "benchmarks/checkpoint")
    parser.add_argument("--model", choices=["base", "tiny"], default="base")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stages", type=int, nargs="+", default=[2, 3])
    args = parser.parse_args()
    rows = []
    for ranks in args.ranks:
        for stage in args.stages:
            work = tempfile.mkdtemp(prefix="checkpoint-")
            try:
                measured = run_ranks(_measure, ranks, args.model, stage, work, timeout=3600, fresh=True)[0]
            finally:
                shutil.rmtree(work, ignore_errors=True)
            numbers = {name: round(value, 2) if value < 10 else round(value, 1) for name, value in measured.items()}
            rows.append({"ranks": ranks, "stage": stage, **numbers})
            write(args.out, rows, args.model)


def write(out: Path, rows: list[dict[str, Any]], model: str) -> None:
    """Writes the record of the cases so far."""
    notes = [
        "One thread per rank, all on one machine and disk. Training waits for `copy to memory`; the rest up to `until whole` "
        "(write, fsync, read back, compare) overlaps with training.",
    ]
    write_record(out, "Saving and loading a checkpoint", notes, rows, ["torch", "deepspeed"], {"model": model})


if __name__ == "__main__":
    main()
