"""`albef-ds report`: writes one HTML page about a run."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser
from albef_ds.common.atomic_files import check_target, write_output

EXAMPLES = """\
  the page in the run's folder
      albef-ds report runs/demo
  another file, to send to someone: it contains everything
      albef-ds report runs/vqa --output vqa.html"""


def main(argv: list[str]) -> int:
    """Writes the page. Raises `UserError` if there is no run or the page cannot be written."""
    command = CommandParser("report", "Write one page about a run: curves, evaluations, data, configuration.", EXAMPLES)
    command.add_argument("run", type=Path, metavar="RUN", help="folder of a run, which may still be running")
    command.add_argument("--output", type=Path, metavar="FILE", help="the page (RUN/report.html)")
    arguments = command.parse_args(argv)
    from albef_ds.training.report.page import PAGE_NAME, build_page  # start-up time
    from albef_ds.training.report.state import require_run

    require_run(arguments.run)
    target = arguments.output or arguments.run / PAGE_NAME
    check_target(target)
    write_output(target, build_page(arguments.run))
    print(f"written: {target}")
    return 0
