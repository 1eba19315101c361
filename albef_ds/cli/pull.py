"""`albef-ds pull`: copies a model of the Hugging Face Hub into a folder."""

from __future__ import annotations

from pathlib import Path

from albef_ds.cli.arguments import CommandParser

EXAMPLES = """\
  a model of a certain revision, for a machine without a network
      albef-ds pull hf://organisation/albef@v1 albef

Commands that take --model, and `albef_ds.load`, take hf://organisation/name@revision as it is, and keep it in huggingface_hub's
cache."""


def main(argv: list[str]) -> int:
    """Copies the model. Raises `UserError` if it cannot be fetched or written."""
    command = CommandParser("pull", "Copy a model of the Hugging Face Hub into a folder.", EXAMPLES)
    command.add_argument("address", metavar="hf://ORGANISATION/NAME", help="@REVISION: a branch, tag or commit (main)")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="new folder")
    arguments = command.parse_args(argv)
    from albef_ds.inference.hub import pull  # start-up time

    folder = pull(arguments.address, arguments.folder)  # huggingface_hub shows the progress
    print(f"written: {folder}")
    return 0
