"""Kills a running chain repeatedly with `kill -9` and compares its final output with an undisturbed run.

    python -m benchmarks.data_tools_kills --kills 30 --work FOLDER --out benchmarks/data_tools_kills

Each attempt starts the same command; its process group is killed in a stage chosen in turn, a random time after that stage
began. A log of tasks gives the number of unfinished ones, which the next attempt repeats. When an attempt ends by itself, the
folder is compared with the undisturbed one and a new chain begins, until the number of kills is reached.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.record import record_parser, write_record

STAGES = ("catalog", "scan", "filter", "dedup", "decontaminate", "plan", "shard", "verify")
TURNS = ("catalog", "scan", "scan", "scan", "filter", "dedup", "decontaminate", "plan", "shard", "shard", "shard", "verify", "")
"""Stages in which the successive attempts of one chain are killed; the last attempt runs to its end."""
WORKERS = 2
LONG = {"scan": 1.0, "shard": 0.5, "verify": 1.0}  # seconds within which a kill is drawn; the other stages are short


def make_images(folder: Path, count: int) -> None:
    """Writes `count` JPEGs with a caption each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = np.random.default_rng(number % (count * 9 // 10)).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
        (folder / f"{number:05d}.txt").write_text(f"picture number {number}")


def command(raw: Path, work: Path, out: Path, log: Path) -> list[str]:
    """The command of the chain to kill."""
    options = ["--samples-per-shard", "50", "--chunk-rows", "50", "--workers", str(WORKERS)]
    source = ["--source", f"raw=folder:{raw}", "--work", str(work), "--out", str(out)]
    return [sys.executable, "-m", "benchmarks.data_tools_kills_chain", str(log), "build", *source, *options]


def reached(work: Path) -> str:
    """The first unfinished stage."""
    return next((stage for stage in STAGES[:-1] if not (work / stage / "done.json").exists()), "verify")


def has_begun(work: Path, stage: str) -> bool:
    """True if `stage` or a later one has begun."""
    return (work / "shard" / "done.json").exists() if stage == "verify" else (work / stage).exists()


def tasks_begun(log: Path) -> int:
    """Number of tasks of map stages that the attempt has begun."""
    return log.read_text().count("begin") if log.exists() else 0


def kill_in(process: subprocess.Popen[bytes], work: Path, log: Path, stage: str, draw: random.Random) -> bool:
    """Kills the process group in `stage`, for map stages after a task has begun; False if it ended before."""
    begun: int | None = None
    while True:
        if begun is None and has_begun(work, stage):
            begun = tasks_begun(log)
        if begun is not None and (stage not in ("scan", "shard") or tasks_begun(log) > begun):
            break
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    try:
        process.wait(draw.uniform(0, LONG.get(stage, 0.05)))
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def finished(work: Path) -> dict[str, int]:
    """Result files of finished tasks of map stages, with their modification times."""
    files = [*(work / "scan").glob("*.parquet"), *(work / "shard").glob("0*.json")]
    return {str(path): path.stat().st_mtime_ns for path in files if not path.name.endswith(".captions.parquet")}


def contents(folder: Path) -> dict[str, bytes]:
    """Content of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> None:
    """Kills chains and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=1500)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    raw, whole = args.work / "raw", args.work / "whole"
    make_images(raw, args.pictures)
    subprocess.run(command(raw, whole / "work", whole / "out", whole / "log"), check=True, stdout=subprocess.DEVNULL)
    expected = contents(whole / "out")
    draw = random.Random(0)
    where: Counter[str] = Counter()
    lost: Counter[int] = Counter()
    rewritten = chains = turn = 0
    while sum(where.values()) < args.kills:
        folder = args.work / f"chain{chains}"
        while True:
            before = finished(folder / "work")
            log = folder / f"log{turn}"
            folder.mkdir(exist_ok=True)
            attempt = command(raw, folder / "work", folder / "out", log)
            stage = TURNS[turn % len(TURNS)]
            turn += 1
            process = subprocess.Popen(attempt, start_new_session=True, stdout=subprocess.DEVNULL)
            killed = bool(stage) and kill_in(process, folder / "work", log, stage, draw)
            if killed:
                where[reached(folder / "work")] += 1
                words = log.read_text().split() if log.exists() else []
                lost[words.count("begin") - words.count("end")] += 1
            code = process.wait()
            after = finished(folder / "work")
            rewritten += sum(after.get(path) != stamp for path, stamp in before.items())
            if not killed:
                break
        if code != 0 or contents(folder / "out") != expected:
            raise SystemExit(f"chain {chains} differs from the undisturbed run (exit code {code})")
        chains += 1
        shutil.rmtree(folder)
    rows = [{"killed in": stage, "times": where[stage]} for stage in STAGES]
    times = ", ".join(f"{count} kills lost {number}" for number, count in sorted(lost.items()))
    notes = [
        f"{sum(where.values())} kills over {chains} chains of {args.pictures} images in chunks of 50, {WORKERS} workers.",
        f"Every chain ended with the same bytes as an undisturbed run. {rewritten} finished chunks were repeated. Tasks",
        f"unfinished at a kill, which the next attempt repeats: {times}; never more than one per worker.",
    ]
    if max(lost) > WORKERS:
        raise SystemExit(f"a kill cost {max(lost)} tasks of {WORKERS} workers")
    facts = {"kills": sum(where.values()), "chains": chains, "finished_done_again": rewritten, "kills_by_tasks_lost": dict(lost)}
    write_record(args.out, "kill -9 at any moment", notes, rows, ["numpy", "pyarrow"], facts)


if __name__ == "__main__":
    main()
