"""Time and memory of converting a base-size ZeRO-3 checkpoint, each form in a separate process.

    python -m benchmarks.convert --work FOLDER --out benchmarks/convert

First, two ranks at ZeRO-3 build the paper's model with random weights and save a checkpoint as in training (without a step,
which changes no size). The bound is that of one safetensors file: 2 x the student's fp32 weights.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from albef_ds.common.processes import free_port
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, STUDENT_NAME
from benchmarks.record import record_parser, write_record

RANKS = 2
FORMS = (
    ("safetensors, as it is", ["--to", "safetensors"], "all.safetensors"),
    ("safetensors, student, bf16", ["--to", "safetensors", "--weights", "student", "--dtype", "bf16"], "bf16.safetensors"),
    ("safetensors in shards of 500 MB", ["--to", "safetensors", "--max-shard", "500"], "shards.safetensors"),
    ("model folder", ["--to", "folder"], "folder"),
    ("released", ["--to", "released"], "released.pth"),
)


def make(folder: Path) -> None:
    """Makes the checkpoint on one rank."""
    import torch

    from albef_ds.checkpoint.saver import Saver
    from albef_ds.checkpoint.training_progress import TrainingProgress
    from albef_ds.config.schema import EngineConfig, OptimConfig, RunConfig, TrainConfig
    from albef_ds.engine import build
    from albef_ds.engine.zero.setup import init_distributed

    config = replace(
        RunConfig(),
        output=str(folder),
        engine=EngineConfig(stage=3, precision="fp32", device="cpu"),
        optim=OptimConfig(name="torch"),
        train=TrainConfig(micro_batch_size=2, global_batch_size=2 * RANKS),
    )
    device = torch.device("cpu")
    init_distributed(device)
    task = build.build_task(config, "fp32")
    build.attach_momentum(task, config)
    engine = build.build_engine(task, config, device, "fp32")
    saver = Saver(folder, config)
    saver.root.mkdir(parents=True, exist_ok=True)
    saver.start(engine, task, TrainingProgress(config.train), [])
    result = saver.finish()
    assert result is not None and not result.error, result


def launch(folder: Path) -> None:
    """Makes the checkpoint with `RANKS` processes."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.convert", "--work", str(folder), "--make"]
    ranks = []
    for rank in range(RANKS):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks.append(subprocess.Popen(command, env={**os.environ, **{name: str(value) for name, value in variables.items()}}))
    if any([rank.wait() for rank in ranks]):
        raise SystemExit("a rank failed")


def measure(name: str, arguments: list[str], source: Path, target: Path) -> dict[str, Any]:
    """Converts in a separate process; returns a row of the record."""
    started = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "benchmarks.convert", "--work", str(source), "--convert", str(target), "--", *arguments]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    files = [target, *target.glob("*")] if target.is_dir() else list(target.parent.glob(f"{target.stem}*"))
    size = sum(file.stat().st_size for file in files if file.is_file())
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {
        "form": name,
        "size MB": round(size / 1e6),
        "seconds": round(time.perf_counter() - started, 1),
        "CPU seconds": round(cpu, 1),
        "peak MB": round(peak * 1024 / 1e6),
    }


def convert(source: Path, target: Path, arguments: list[str]) -> None:
    """Runs the conversion in the measured process; prints its peak resident memory in KiB as the last line."""
    from albef_ds.cli.main import main

    code = main(["convert", str(source), str(target), *arguments])
    if code:
        raise SystemExit(code)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Makes the checkpoint, measures and writes the record."""
    parser = record_parser(__doc__, "benchmarks/convert")
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoint and the results, some 10 GB")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--convert", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return make(options.work)
    if options.convert is not None:
        return convert(options.work, options.convert, options.arguments)
    run = options.work / "run"
    if not run.exists():
        options.work.mkdir(parents=True, exist_ok=True)
        launch(run)
    weights = next((run / CHECKPOINTS_FOLDER).glob(f"*/{STUDENT_NAME}")).stat().st_size
    rows = []
    for name, arguments, target in FORMS:
        path = options.work / target
        rows.append(measure(name, arguments, run, path))
        for leftover in options.work.glob(f"{path.stem}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        print(rows[-1], flush=True)
    for row in rows:
        row["peak / fp32 weights"] = round(row["peak MB"] * 1e6 / weights, 2)
    notes = [
        f"Source: a checkpoint of the paper's model (fp32 weights {weights / 1e6:,.0f} MB, momentum copy as much), written "
        f"by {RANKS} ranks at ZeRO-3; the time includes checking its SHA-256 list, converting, reading back and comparing. "
        "Peak: resident memory of the process, including memory-mapped pages of the file it reads back.",
    ]
    sys.argv[1:] = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]  # no path of this machine
    write_record(options.out, "Converting a base-size ZeRO-3 checkpoint", notes, rows, ["torch", "deepspeed", "safetensors"], {})


if __name__ == "__main__":
    main()
