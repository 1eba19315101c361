"""Time of a whole `albef-data build`, beside an earlier build, in one run.

    git worktree add OTHER COMMIT
    python -m benchmarks.data_tools_build --beside OTHER --out benchmarks/data_tools_build

The builds take turns over the same JPEGs of about 58 KB, each in a fresh process with one thread, after one build
that is not counted. The corpora must be equal, byte for byte. CPU seconds are those of the main process, which does all of the
work where there is one worker.
"""

from __future__ import annotations

import filecmp
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jpegs import photograph
from benchmarks.record import record_parser, write_record

HERE = Path(__file__).resolve().parent.parent
QUALITY = 57
MADE = 500  # photographs; the others repeat their pixels, with other bytes at the end of the file
WORDS = ("red", "blue", "green", "dog", "cat", "tree", "car", "house", "sky", "road", "river", "boat", "man", "child")


def make_pictures(folder: Path, count: int) -> None:
    """JPEGs with a caption beside each."""
    rng = np.random.default_rng(0)
    made = [photograph(rng, QUALITY) for _ in range(min(count, MADE))]
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05d}.jpg").write_bytes(made[number % len(made)] + number.to_bytes(4, "big"))
        (folder / f"{number:05d}.txt").write_text("a photo of " + " ".join(rng.choice(WORDS, 8)))


def build(root: Path, pictures: Path, folder: Path, workers: int) -> tuple[float, float]:
    """Builds the corpus `folder`/out with the package in `root`; returns wall seconds and CPU seconds of the main process."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "data_tools.cli", "build", "--work", str(folder / "work"), "--out", str(folder / "out")]
    command += ["--source", f"raw=folder:{pictures}", "--samples-per-shard", "10000", "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, cwd=root, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def same(left: Path, right: Path) -> bool:
    """True if the shards of two corpora are equal."""
    names = sorted(path.name for path in left.glob("*.tar"))
    return bool(names) and filecmp.cmpfiles(left, right, names, shallow=False)[0] == names


def measure(title: str, pictures: Path, roots: dict[str, Path], workers: int, turns: int) -> dict[str, Any]:
    """One row: medians over the turns, and of the ratios of each turn."""
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in roots}
    folders = {form: pictures.parent / form for form in roots}
    for turn in range(turns + 1):
        for form, root in roots.items():
            taken = build(root, pictures, folders[form], workers)
            if turn:
                found[form].append(taken)
        assert same(folders["now"] / "out", folders["earlier"] / "out"), "the corpora differ"
    row: dict[str, Any] = {"build": title}
    for place, unit in enumerate(("wall s", "CPU s")):
        known = place == 0 or workers == 1  # what the processes of a pool took is not known here
        ratios = [theirs[place] / ours[place] for ours, theirs in zip(found["now"], found["earlier"], strict=True)]
        for form, seconds in found.items():
            row[f"{form}, {unit}"] = round(statistics.median(turn[place] for turn in seconds), 1) if known else ""
        row[f"earlier / now, {unit}"] = round(statistics.median(ratios), 2) if known else ""
    return row


def main() -> None:
    """Measures and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--beside", type=Path, required=True, help="a checkout of the earlier build, with its loops compiled")
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    roots = {"now": HERE, "earlier": options.beside.resolve()}
    with tempfile.TemporaryDirectory() as scratch:
        pictures = Path(scratch) / "pictures"
        make_pictures(pictures, options.pictures)
        size = statistics.mean(path.stat().st_size for path in pictures.glob("*.jpg")) / 1000
        rows = []
        for workers in (1, 2):
            rows.append(measure("1 worker" if workers == 1 else f"{workers} workers", pictures, roots, workers, options.turns))
            print(rows[-1], flush=True)
    asked = ["git", "-C", str(options.beside), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    notes = [
        f"{options.pictures} JPEGs of 640 x 480, {size:.0f} KB; {options.turns} turns, medians; `earlier` is commit {commit}.",
        "The shards of both are equal, byte for byte.",
    ]
    packages = ["numpy", "pillow", "simplejpeg", "pyarrow", "xxhash"]
    write_record(options.out, "A whole `albef-data build`", notes, rows, packages, {"turns": options.turns})


if __name__ == "__main__":
    main()
