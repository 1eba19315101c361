"""Compares the data tools with those of another checkout: the rows of `data_tools_peers.py` that are ours, taken in turns.

    git worktree add /tmp/before COMMIT
    OMP_NUM_THREADS=1 python -m benchmarks.data_tools_versions --before /tmp/before --out benchmarks/data_tools_versions

Each turn runs both checkouts as processes of this environment, in alternating order, each with its own benchmark; CPU seconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.record import record_parser, write_record

HERE = Path(__file__).parent.parent
Rates = dict[tuple[str, str], float]


def measured(checkout: Path, only: list[str]) -> Rates:
    """Units per CPU second by task and tool."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.data_tools_peers", "--out", f"{folder}/rates", *only]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(Path(folder, "rates.json").read_text())["rows"]
    ours = [row for row in rows if row["tool"].startswith("ours")]
    return {(row["task"], row["tool"]): float(row["per CPU second"].replace(",", "")) for row in ours}


def main() -> None:
    """Takes the turns and writes the record."""
    parser = record_parser(__doc__)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", help="measure one task of data_tools_peers.py")
    arguments = parser.parse_args()
    only = ["--only", arguments.only] if arguments.only else []
    turns: list[tuple[Rates, Rates]] = []
    for turn in range(arguments.turns):
        order = (arguments.before.absolute(), HERE) if turn % 2 else (HERE, arguments.before.absolute())
        rates = {checkout: measured(checkout, only) for checkout in order}
        turns.append((rates[arguments.before.absolute()], rates[HERE]))
    rows = []
    for key in turns[0][0].keys() & turns[0][1].keys():
        ratios = sorted(after[key] / before[key] for before, after in turns)
        best = [max(turn[side][key] for turn in turns) for side in (0, 1)]
        name = key[0] + key[1].removeprefix("ours")
        row = {
            "task": name,
            "before": f"{best[0]:,.0f}",
            "after": f"{best[1]:,.0f}",
            "after / before": f"{best[1] / best[0]:.2f}",
        }
        rows.append(
            row | {"median of the turns": f"{statistics.median(ratios):.2f}", "turns": f"{ratios[0]:.2f}-{ratios[-1]:.2f}"}
        )
    commit = subprocess.run(["git", "-C", str(arguments.before), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    notes = [f"Per CPU second, the best of {len(turns)} turns; `before` is commit {commit.stdout.strip()}."]
    write_record(arguments.out, "Data tools before and after", notes, sorted(rows, key=lambda row: row["task"]), ["numpy"], {})


if __name__ == "__main__":
    main()
