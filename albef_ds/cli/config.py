"""`albef-ds config`: prints a configuration as a table, or as JSON for `--config`."""

from __future__ import annotations

import json

from albef_ds.cli.arguments import CommandParser, add_config_arguments, config_from
from albef_ds.config.describe import describe
from albef_ds.config.files import to_dict

EXAMPLES = """\
  every setting and its default
      albef-ds config
  settings of a recipe (marked *), with one changed
      albef-ds config --recipe pretrain_4m engine.stage=3
  write a file to edit and train from
      albef-ds config --recipe debug --json > my.json"""


def main(argv: list[str]) -> int:
    """Prints the configuration. Raises `UserError` if it cannot be built."""
    command = CommandParser("config", "Print every setting: value, unit, meaning, the paper's value.", EXAMPLES)
    add_config_arguments(command, required=False)
    command.add_argument("--json", action="store_true", help="print the JSON that --config reads")
    arguments = command.parse_intermixed_args(argv)
    config = config_from(arguments, [])
    print(json.dumps(to_dict(config), indent=2, ensure_ascii=False) if arguments.json else describe(config))
    return 0
