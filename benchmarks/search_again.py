"""CPU time and memory of a second search in a folder, beside an earlier build, in one run.

    git worktree add OTHER COMMIT
    python -m benchmarks.search_again --beside OTHER --out benchmarks/search_again

A model of the paper's size with random weights, made JPEGs, of which the most similar 64 are judged. The earlier build makes the
index, which the present one takes over; each then searches twice with the same text, in a fresh process with one thread, and the
second call counts. Matches must be equal to 1e-3: kept tokens are in half precision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jpegs import photograph
from benchmarks.record import record_parser, write_record

HERE = Path(__file__).resolve().parent.parent
WRITE_MODEL = """
import sys, pathlib
from dataclasses import replace
import torch
from albef_ds.config.schema import RetrievalConfig, RunConfig
from albef_ds.checkpoint.formats.write import Options, convert
from albef_ds.engine.build import build_task
from tests.inference.tiny_models import found
torch.manual_seed(0)
config = replace(RunConfig(), task=RetrievalConfig(queue_size=0))
convert(found(build_task(config).eval(), config), pathlib.Path(sys.argv[1]), Options("folder"))
"""
MEASURED = """
import json, resource, sys
from albef_ds.cli.main import main
code = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"code": code, "CPU s": used.ru_utime + used.ru_stime, "MB": used.ru_maxrss / 1000}), file=sys.stderr)
"""


def run(root: Path, program: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A fresh Python process with the package in `root` and one thread."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)


def search(root: Path, folder: Path) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """One search: what it took, and its hits."""
    given = {"--model": "model", "--images": "images", "--output": "page.html"}
    arguments = [word for option, name in given.items() for word in (option, str(folder / name))]
    done = run(root, MEASURED, ["search", *arguments, "--text", "a red apple", "--json", "--top", "64"])
    return json.loads(done.stderr.splitlines()[-1]), json.loads(done.stdout)["hits"]


def main() -> None:
    """Measures both builds and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--beside", type=Path, required=True, help="a checkout of the earlier build")
    parser.add_argument("--images", type=int, default=150)
    options = parser.parse_args()
    roots = {"earlier": options.beside.resolve(), "now": HERE}
    rng = np.random.default_rng(0)
    rows, hits = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "images").mkdir()
        for number in range(options.images):
            (folder / "images" / f"{number:05d}.jpg").write_bytes(photograph(rng))
        run(roots["earlier"], WRITE_MODEL, [str(folder / "model")])
        for form, root in roots.items():
            for call in ("first", "second"):
                taken, hits[form] = search(root, folder)
                rows.append({"build": form, "call": call, "CPU s": round(taken["CPU s"], 1), "MB": round(taken["MB"])})
                print(rows[-1], flush=True)
    assert {hit["path"] for hit in hits["now"]} == {hit["path"] for hit in hits["earlier"]}
    matches = [{hit["path"]: hit["match"] for hit in hits[form]} for form in roots]
    apart = max(abs(matches[0][path] - matches[1][path]) for path in matches[0])
    assert apart < 1e-3, apart
    asked = ["git", "-C", str(options.beside), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    ratio = rows[3]["CPU s"] / rows[1]["CPU s"]
    notes = [
        f"{options.images} JPEGs; `earlier` is commit {commit}, whose first call makes the index.",
        f"The second call of the present build takes {ratio:.2f} of the earlier one's. Matches are at most {apart:.1e} apart.",
    ]
    write_record(options.out, "A second search", notes, rows, ["torch"], {"ratio": ratio, "apart": apart})


if __name__ == "__main__":
    main()
