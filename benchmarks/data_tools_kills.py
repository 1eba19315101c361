"""Kills a running chain again and again with `kill -9` and compares what it writes in the end with an undisturbed run.

    python -m benchmarks.data_tools_kills --kills 30 --work FOLDER --out benchmarks/data_tools_kills

Each attempt starts the same command; the whole process group is killed after a time drawn anew. Between two attempts it
counts which chunks were done, to see how many were begun and lost. When an attempt ends by itself the folder is
compared and a new chain begins, until the kills are spent.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.data_tools_record import write_record

STAGES = ("catalog", "scan", "filter", "dedup", "decontaminate", "plan", "shard")
WORKERS = 2


def make_pictures(folder: Path, count: int) -> None:
    """`count` JPEGs with a caption each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = np.random.default_rng(number % (count * 9 // 10)).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
        (folder / f"{number:05d}.txt").write_text(f"picture number {number}")


def command(raw: Path, work: Path, out: Path) -> list[str]:
    """The chain that is killed."""
    options = ["--samples-per-shard", "50", "--chunk-rows", "50", "--workers", str(WORKERS)]
    source = ["--source", f"raw=folder:{raw}", "--work", str(work), "--out", str(out)]
    return [sys.executable, "-m", "data_tools.cli", "build", *source, *options]


def reached(work: Path) -> str:
    """The stage that is not finished yet."""
    return next((stage for stage in STAGES if not (work / stage / "done.json").exists()), "verify")


def finished(work: Path) -> dict[str, int]:
    """Result files of the map stages that are done, with the time they were written."""
    files = [*(work / "scan").glob("*.parquet"), *(work / "shard").glob("0*.json")]
    return {str(path): path.stat().st_mtime_ns for path in files if not path.name.endswith(".captions.parquet")}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    """Kill and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--longest", type=float, default=12.0, help="seconds after which an attempt is killed, at most")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="record to write, without suffix")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    raw, whole = args.work / "raw", args.work / "whole"
    make_pictures(raw, args.pictures)
    subprocess.run(command(raw, whole / "work", whole / "out"), check=True, stdout=subprocess.DEVNULL)
    expected = contents(whole / "out")
    draw = random.Random(0)
    where: Counter[str] = Counter()
    rewritten = chains = 0
    while sum(where.values()) < args.kills:
        folder = args.work / f"chain{chains}"
        while True:
            before = finished(folder / "work")
            attempt = command(raw, folder / "work", folder / "out")
            process = subprocess.Popen(attempt, start_new_session=True, stdout=subprocess.DEVNULL)
            try:
                code = process.wait(draw.uniform(0.5, args.longest))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                where[reached(folder / "work")] += 1
                code = None
            after = finished(folder / "work")
            rewritten += sum(after.get(path) != stamp for path, stamp in before.items())
            if code is not None:
                break
        if code != 0 or contents(folder / "out") != expected:
            raise SystemExit(f"chain {chains} differs from the undisturbed run (exit code {code})")
        chains += 1
        shutil.rmtree(folder)
    rows = [{"killed in": stage, "times": where[stage]} for stage in (*STAGES, "verify")]
    notes = [
        f"{sum(where.values())} kills over {chains} chains of {args.pictures} pictures in chunks of 50, {WORKERS} workers.",
        f"Every chain ended with the same bytes as an undisturbed run; {rewritten} finished chunks were done again, so a kill",
        "costs what was under way: at most one chunk per worker, or one reduction.",
    ]
    write_record(args.out, "kill -9 at any moment", notes, rows, ["numpy", "pyarrow"], {"kills": sum(where.values())})


if __name__ == "__main__":
    main()
