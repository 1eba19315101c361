"""`albef-ds runs`: lists the runs below a folder, one line each."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from albef_ds.cli.arguments import CommandParser
from albef_ds.common.errors import UserError
from albef_ds.training.report.state import RunState, find_runs, state_of

EXAMPLES = """\
  the runs in runs/
      albef-ds runs
  another folder, as JSON
      albef-ds runs /scratch/them --json

running: the last log line is recent. finished: the planned length is reached and saved. stopped: `albef-ds train --config
RUN/config.json --resume auto` continues. broken off: there is no checkpoint to continue from."""
DEFAULT = Path("runs")


def main(argv: list[str]) -> int:
    """Prints the list. Raises `UserError` if there is no such folder."""
    command = CommandParser("runs", "List runs with their state, step, loss, speed and last metric.", EXAMPLES)
    command.add_argument("folder", nargs="?", type=Path, default=DEFAULT, metavar="FOLDER", help="folder of the runs (runs)")
    command.add_argument("--json", action="store_true", help="print a JSON list")
    arguments = command.parse_args(argv)
    found = []
    for folder in find_runs(arguments.folder):
        try:
            found.append(state_of(folder))
        except UserError as error:  # one damaged folder must not hide the others
            print(f"albef-ds: left out: {' '.join(str(error).split())}", file=sys.stderr)
    if arguments.json:
        print(json.dumps([asdict(run) for run in found], indent=1))
    elif found:
        print(table(found))
    else:
        print(f"no run below {arguments.folder}: `albef-ds train --output {arguments.folder}/NAME ...` creates one")
    return 0


def table(runs: list[RunState]) -> str:
    """The list as text: a header and one line per run."""
    rows = [("run", "recipe", "state", "step", "loss", "img/s", "last metric", "written")]
    for run in runs:
        total = f"/{run.total_steps:,}" if run.total_steps else ""
        metric = f"{run.metric} {run.value:.2f}" if run.metric and run.value is not None else "-"
        loss = "-" if run.loss is None else f"{run.loss:.3f}"
        speed = "-" if run.images_per_second is None else f"{run.images_per_second:.1f}"
        written = run.last_written.replace("T", " ") or "-"
        rows.append((run.run, run.recipe or "-", run.state, f"{run.step:,}{total}", loss, speed, metric, written))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
