"""`albef-ds inspect`: what a file or folder of weights is."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser
from albef_ds.cli.progress_bar import waiting

EXAMPLES = """\
  a downloaded file
      albef-ds inspect ALBEF.pth
  a run, and every tensor in its newest checkpoint
      albef-ds inspect runs/run --tensors"""


def main(argv: list[str]) -> int:
    """Print what `argv` names. Raises `UserError` where it holds no model."""
    command = CommandParser("inspect", "Say what a file is: kind, sizes, lineage, hash, what it converts to.", EXAMPLES)
    command.add_argument("file", metavar="FILE", help="file or folder")
    command.add_argument("--tensors", action="store_true", help="list every tensor")
    command.add_argument("overrides", nargs="*", metavar="section.field=value", help="what a released file does not say")
    arguments = command.parse_intermixed_args(argv)
    from albef_ds.checkpoint.formats.inspect import inspect  # start-up time

    with waiting("reading the file"):
        lines = list(inspect(Path(arguments.file), arguments.overrides, tensors=arguments.tensors))
    print("\n".join(lines))
    return 0
