"""CPU time from the call of a command to its first result, beside an earlier build, in one run.

    git worktree add OTHER COMMIT
    python -m benchmarks.startup --beside OTHER --out benchmarks/startup

Every command is a fresh process with one thread, after one that is not counted; the builds take turns. No command that computes
comes below `import torch` alone.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import record_parser, write_record
from tests.errors.test_train_errors import write_corpus
from tests.inference.tiny_models import picture

HERE = Path(__file__).resolve().parent.parent


WRITE_MODEL = "import sys, pathlib, tests.inference.tiny_models as m; m.model_folder(pathlib.Path(sys.argv[1]), 'retrieval')"


def commands(folder: Path, earlier: Path) -> dict[str, list[str]]:
    """Arguments of `albef-ds`, by title. The model is written by the `earlier` build, since it does not know later settings."""
    corpus, model, photos = write_corpus(folder / "corpus"), folder / "retrieval", folder / "photos"
    environment = {**os.environ, "PYTHONPATH": str(earlier)}
    subprocess.run([sys.executable, "-c", WRITE_MODEL, str(folder)], env=environment, cwd=earlier, check=True)
    photos.mkdir()
    for number in range(3):
        picture(number).save(photos / f"{number}.png")
    train = ["train", "--recipe", "debug", f"data.shards={corpus}", "train.max_steps=1", "data.num_workers=0"]
    train += [f"output={folder}/run", "--overwrite"]
    page = ["--output", str(folder / "page.html")]
    return {
        "plan --recipe debug --throughput": ["plan", "--recipe", "debug", "--throughput"],
        "evaluate, refused": ["evaluate", str(folder / "none")],
        "search of 3 images, second": ["search", "--model", str(model), "--images", str(photos), "--text", "cup", *page],
        "train --recipe debug, one step": [*train, "engine.kind=local"],
        "the same with ZeRO": [*train, "engine.kind=zero"],
    }


def seconds(root: Path, arguments: list[str]) -> float:
    """CPU seconds of one process with the package in `root`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], env=environment, cwd=root, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(title: str, arguments: list[str], roots: dict[str, Path], turns: int) -> dict[str, Any]:
    """One row: medians over the turns, and of the ratios of each turn."""
    found: dict[str, list[float]] = {form: [] for form in roots}
    for turn in range(turns + 1):
        for form, root in roots.items():
            taken = seconds(root, arguments)
            if turn:
                found[form].append(taken)
    row: dict[str, Any] = {"command": title}
    row |= {f"{form}, CPU s": round(statistics.median(values), 2) for form, values in found.items()}
    ratios = [ours / theirs for ours, theirs in zip(found["now"], found["earlier"], strict=True)]
    return {**row, "now / earlier": round(statistics.median(ratios), 2)}


def main() -> None:
    """Measures every command and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--beside", type=Path, required=True, help="a checkout of the earlier build")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    roots = {"now": HERE, "earlier": options.beside.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure("import torch", ["-c", "import torch"], roots, options.turns)]
        for title, arguments in commands(Path(folder), roots["earlier"]).items():
            rows.append(measure(title, ["-m", "albef_ds.cli.main", *arguments], roots, options.turns))
            print(rows[-1], flush=True)
    asked = ["git", "-C", str(options.beside), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    notes = [f"{options.turns} turns, medians; `earlier` is commit {commit}."]
    write_record(options.out, "Start-up of commands", notes, rows, ["torch", "deepspeed"], {"turns": options.turns})


if __name__ == "__main__":
    main()
