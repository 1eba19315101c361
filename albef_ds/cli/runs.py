"""`albef-ds runs`: lists the runs below a folder, one line each."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from albef_ds.cli.arguments import CommandParser, whole_number
from albef_ds.common.errors import ConfigError, UserError
from albef_ds.training.report.state import RunState, find_runs, state_of

EXAMPLES = """\
  the runs in runs/
      albef-ds runs
  another folder, as JSON
      albef-ds runs /scratch/them --json
  look at them until Ctrl-C
      albef-ds runs --watch

running: the last log line is recent. finished: the planned length is reached and saved. stopped: `albef-ds train --config
RUN/config.json --resume auto` continues. broken off: there is no checkpoint to continue from."""
DEFAULT = Path("runs")


def main(argv: list[str]) -> int:
    """Prints the list. Raises `UserError` if there is no such folder."""
    command = CommandParser("runs", "List runs with their state, step, loss, speed and last metric.", EXAMPLES)
    command.add_argument("folder", nargs="?", type=Path, default=DEFAULT, metavar="FOLDER", help="folder of the runs (runs)")
    command.add_argument("--json", action="store_true", help="print a JSON list")
    command.add_argument(
        "--watch", type=whole_number(1), nargs="?", const=5, metavar="SECONDS", help="print the list again and again, every 5 s"
    )
    arguments = command.parse_args(argv)
    if arguments.watch is None:
        _show(arguments.folder, as_json=arguments.json)
        return 0
    if arguments.json:
        raise ConfigError("--watch is for a terminal and --json for programs: give one of them")
    while True:
        if sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")  # to the top of an empty screen
        print(f"{time.strftime('%H:%M:%S')}, every {arguments.watch} s, Ctrl-C ends it")
        _show(arguments.folder, as_json=False)
        sys.stdout.flush()
        time.sleep(arguments.watch)


def _show(folder: Path, *, as_json: bool) -> None:
    found = []
    for run in find_runs(folder):
        try:
            found.append(state_of(run))
        except UserError as error:  # one damaged folder must not hide the others
            print(f"albef-ds: left out: {' '.join(str(error).split())}", file=sys.stderr)
    if as_json:
        print(json.dumps([asdict(run) for run in found], indent=1))
    elif found:
        print(table(found))
    else:
        print(f"no run below {folder}: `albef-ds train --output {folder}/NAME ...` creates one")


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
