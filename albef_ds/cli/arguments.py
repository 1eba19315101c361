"""What subcommands share: a parser whose errors are `ConfigError`, and the arguments that make a `RunConfig`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.files import load
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import RunConfig
from albef_ds.errors import ConfigError
from albef_ds.recipes import get_recipe


class CommandParser(argparse.ArgumentParser):
    """`argparse` for one subcommand: keeps the line breaks of texts, never abbreviates, reports errors as `ConfigError`."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"albef-ds {command}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError` in place of printing the usage and leaving the process."""
        raise ConfigError(f"{message}: `{self.prog} --help` shows the arguments")


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add `--recipe | --config` and the positional overrides; `required` refuses a command line with neither."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument("--recipe", metavar="NAME", help="start from a recipe (`albef-ds recipes` lists them)")
    source.add_argument("--config", metavar="FILE", type=Path, help="start from a JSON file, such as a run's config.json")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.field=value", help="change a setting (`albef-ds config` lists them)"
    )


def config_from(arguments: argparse.Namespace, extra: list[str]) -> RunConfig:
    """The configuration that `add_config_arguments` describes, with `extra` overrides applied last.

    Raises:
        ConfigError: an unknown recipe, a file or override that cannot be used, or a ZeRO file that does not fit.
    """
    if arguments.recipe is not None:
        config = get_recipe(arguments.recipe)
    else:
        config = RunConfig() if arguments.config is None else load(arguments.config)
    config = parse_overrides(config, [*arguments.overrides, *extra])
    if config.engine.ds_config:
        load_ds_config(Path(config.engine.ds_config), config.engine.stage)
    return config
