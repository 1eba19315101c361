"""`albef-ds report`: writes one HTML page about a run, or about several beside each other."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser
from albef_ds.common.atomic_files import check_target, write_output

EXAMPLES = """\
  the page in the run's folder
      albef-ds report runs/demo
  another file, to send to someone: it contains everything
      albef-ds report runs/vqa --output vqa.html
  two to four runs: curves over each other, metrics, the settings that differ
      albef-ds report runs/a runs/b --output comparison.html"""


def main(argv: list[str]) -> int:
    """Writes the page. Raises `UserError` if there is no run or the page cannot be written."""
    command = CommandParser("report", "Write one page about a run, or compare several.", EXAMPLES)
    command.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run, which may still be running")
    command.add_argument("--output", type=Path, metavar="FILE", help="the page (RUN/report.html; of several comparison.html)")
    arguments = command.parse_args(argv)
    from albef_ds.training.report.comparison import compare_page  # start-up time
    from albef_ds.training.report.page import PAGE_NAME, build_page
    from albef_ds.training.report.state import require_run

    runs: list[Path] = arguments.runs
    for run in runs:
        require_run(run)
    target = arguments.output or (runs[0] / PAGE_NAME if len(runs) == 1 else Path("comparison.html"))
    check_target(target)
    write_output(target, build_page(runs[0]) if len(runs) == 1 else compare_page(runs))
    print(f"written: {target}")
    return 0
