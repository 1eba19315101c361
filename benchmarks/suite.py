"""Runs all benchmarks of the training system: ours compared with the plain form or a peer's.

    make bench                                  # 20 to 35 minutes on two cores
    python -m benchmarks.suite --quick          # minutes, tiny sizes: a test that all run, without figures to quote

Writes benchmarks/suite.json and .md (with --quick benchmarks/suite_quick). The benchmarks run one after another in separate
processes; a failed one is named in the record and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import hardware

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its module and arguments except `--out`."""

    title: str
    module: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ()
    """None: left out of the quick run."""
    work: str = ""
    """Option that names a scratch folder."""


_ALL_CORES = ("--threads", str(len(os.sched_getaffinity(0))))
SUITE = [
    Benchmark("Step", "step", _ALL_CORES, ("--batch", "2", "--tokens", "12", "--repetitions", "1")),
    Benchmark("Step on captions as long as CC12M's", "step", ("--captions", "cc12m", *_ALL_CORES), None),
    Benchmark("Parts of the step", "parts", _ALL_CORES, ("--batch", "2", "--tokens", "12", "--repetitions", "1")),
    Benchmark("Losses", "losses", (), ("--repetitions", "1")),
    Benchmark("Attention", "attention", (), ("--repetitions", "1")),
    Benchmark("AdamW in every engine", "engines"),
    Benchmark("Momentum update", "momentum_update", (), ("--model", "tiny", "--repetitions", "2")),
    Benchmark("Momentum memory", "momentum", (), ("--ranks", "1")),
    Benchmark("Sources of the momentum update", "momentum_source", (), None),
    Benchmark("Loader", "loader", (), ("--pictures", "16", "--workers", "1")),
    Benchmark("Checkpoints", "checkpoint", (), ("--model", "tiny", "--ranks", "1", "--stages", "2")),
    Benchmark("Conversion", "convert", (), None, work="--work"),
    Benchmark("Data tools", "data_tools_peers", (), ("--only", "captions")),
    Benchmark("Memory by plan", "plan", (), None),
]


def run(entry: Benchmark, quick: bool, folder: Path) -> dict[str, Any]:
    """The benchmark's record with `title` and `minutes`; instead of rows it has the reason in `failed` if it failed."""
    out = folder / entry.title.replace(" ", "_")
    arguments = list((entry.quick or ()) if quick else entry.full)
    if entry.work:
        arguments += [entry.work, str(folder / "work")]
    command = [sys.executable, "-m", f"benchmarks.{entry.module}", "--out", str(out), *arguments]
    start = time.monotonic()
    ended = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    minutes = round((time.monotonic() - start) / 60, 1)
    shown = " ".join(["python", "-m", f"benchmarks.{entry.module}", *arguments]).replace(str(folder), "FOLDER")
    if ended.returncode or not out.with_suffix(".json").exists():
        reason = (ended.stderr.strip().splitlines() or ["no output"])[-1]
        return {"title": entry.title, "command": shown, "minutes": minutes, "failed": reason}
    record: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    page = out.with_suffix(".md").read_text().splitlines()
    # The head of the page, which repeats the command and the machine, is left out.
    record |= {"title": entry.title, "command": shown, "minutes": minutes, "page": page[3:]}
    return record


def render(records: list[dict[str, Any]], quick: bool) -> str:
    """All records as one page."""
    lines = ["# All benchmarks in one run" + (" (quick: sizes too small to quote)" if quick else ""), "", hardware(), ""]
    for record in records:
        lines += [f"## {record['title']}", "", f"`{record['command']}`, {record['minutes']} minutes", ""]
        lines += [f"Failed: {record['failed']}", ""] if "failed" in record else [*record["page"], ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Runs all benchmarks and writes the record; returns 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and without the benchmarks that have none")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[e.module for e in SUITE], help="modules to run")
    parser.add_argument("--out", type=Path, help="record without ending (benchmarks/suite, or suite_quick)")
    arguments = parser.parse_args()
    out: Path = arguments.out or HERE / ("suite_quick" if arguments.quick else "suite")
    chosen = [
        e for e in SUITE if not (arguments.quick and e.quick is None) and (not arguments.only or e.module in arguments.only)
    ]
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for number, entry in enumerate(chosen, start=1):
            print(f"{number} of {len(chosen)}: {entry.title}", flush=True)
            records.append(run(entry, arguments.quick, Path(folder)))
            # Written after each, so that the measurements are kept if a later one is stopped.
            kept = [{key: value for key, value in record.items() if key != "page"} for record in records]
            out.with_suffix(".json").write_text(json.dumps({"quick": arguments.quick, "benchmarks": kept}, indent=1) + "\n")
            out.with_suffix(".md").write_text(render(records, arguments.quick))
    failed = [record["title"] for record in records if "failed" in record]
    print(f"{out}.md written" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
