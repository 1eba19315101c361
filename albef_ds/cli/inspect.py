"""`albef-ds inspect`: describes a file or folder of weights."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser, add_overrides
from albef_ds.cli.progress_bar import waiting

EXAMPLES = """\
  a downloaded file
      albef-ds inspect ALBEF.pth
  a run, and every tensor in its newest checkpoint
      albef-ds inspect runs/run --tensors"""


def main(argv: list[str]) -> int:
    """Prints the description. Raises `UserError` if there is no model."""
    command = CommandParser("inspect", "Describe a file of weights: kind, sizes, lineage, hash, possible conversions.", EXAMPLES)
    command.add_argument("file", metavar="FILE", help="file or folder")
    command.add_argument("--tensors", action="store_true", help="list every tensor")
    add_overrides(command, "settings that a released file does not hold")
    arguments = command.parse_intermixed_args(argv)
    from albef_ds.checkpoint.formats.inspect import inspect  # start-up time

    with waiting("reading the file"):
        lines = list(inspect(Path(arguments.file), arguments.overrides, tensors=arguments.tensors))
    print("\n".join(lines))
    return 0
