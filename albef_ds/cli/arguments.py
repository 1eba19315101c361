"""Shared by subcommands: a parser that raises `ConfigError`, argument types, and the arguments of a `RunConfig`."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import math
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

from albef_ds.common.errors import ConfigError, UserError
from albef_ds.config.ds_config import load_ds_config
from albef_ds.config.files import load
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.recipes import RECIPES, get_recipe
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import all_settings, nearest_path

_inspected: ContextVar[bool] = ContextVar("inspected", default=False)


class ParserFound(Exception):  # noqa: N818 (not an error)
    """Raised within `inspecting` by a command that would parse its arguments; carries its parser."""

    def __init__(self, parser: CommandParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


@contextlib.contextmanager
def inspecting() -> Iterator[None]:
    """Commands called within the block raise `ParserFound` instead of parsing. Used by completion and the documentation."""
    token = _inspected.set(True)
    try:
        yield
    finally:
        _inspected.reset(token)


class CommandParser(argparse.ArgumentParser):
    """`argparse` parser of one subcommand: keeps line breaks, takes no abbreviations, raises `ConfigError`."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"albef-ds {command}",
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Every argparse entry point ends here. Within `inspecting` it raises `ParserFound` instead of parsing."""
        if _inspected.get():
            raise ParserFound(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises `ConfigError` instead of printing the usage and exiting."""
        unknown = re.fullmatch(r"unrecognized arguments: --([^ =]+).*", message, re.DOTALL)
        hint = self._hint(unknown.group(1)) if unknown else ""
        raise ConfigError(f"{message}: {hint or f'`{self.prog} --help` shows the arguments'}")

    def _hint(self, option: str) -> str:
        """A suggestion for the unknown `--option`: another option, or a setting, which has no dashes."""
        if close := difflib.get_close_matches(f"--{option}", self._option_string_actions, n=1, cutoff=0.7):
            return f"did you mean {close[0]}?"
        takes_settings = any(action.dest == "overrides" for action in self._actions)
        path = option.replace("-", "_")
        if takes_settings and (path in all_settings() or (path := nearest_path(path))):
            return f"settings are given without dashes, write {path}=VALUE"
        return ""


def whole_number(least: int) -> Callable[[str], int]:
    """An argument `type=` for whole numbers from `least` on."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} cannot be used: give a whole number from {least} on")
        return int(text)

    return read


def number_between(low: float, high: float) -> Callable[[str], float]:
    """An argument `type=` for numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} cannot be used: give a number from {low:g} to {high:g}")
        return value

    return read


def positive_number(text: str) -> float:
    """An argument `type=` for numbers above 0 and below a million."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: give a number above 0")
    return value


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Prefixes a `UserError` raised in the block with `option`, since the called code does not know the command line."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{option}: {error}") from None


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds `--recipe | --config` and positional overrides; `required` refuses a command line with neither option."""
    parser.set_defaults(source_required=required)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--recipe", metavar="NAME", help="start from a recipe (`albef-ds recipes` lists them)")
    source.add_argument("--config", metavar="FILE", type=Path, help="start from a JSON file, such as a run's config.json")
    add_overrides(parser, "change a setting (`albef-ds config` lists them)")


def add_overrides(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Adds the positional overrides."""
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help=help_text)


def config_from(arguments: argparse.Namespace, extra: list[str]) -> RunConfig:
    """The configuration from the arguments of `add_config_arguments`, with `extra` overrides applied last.

    Raises:
        ConfigError: an unknown recipe, a file or override that cannot be used, or a ZeRO file that does not fit.
    """
    if arguments.recipe is not None:
        config = get_recipe(arguments.recipe)
    elif arguments.config is None and arguments.source_required:
        given = next((word for word in arguments.overrides if word in RECIPES), "NAME")
        raise ConfigError(f"one of --recipe and --config is required: add --recipe {given} (`albef-ds recipes` lists them)")
    else:
        config = RunConfig() if arguments.config is None else load(arguments.config)
    config = parse_overrides(config, [*arguments.overrides, *extra])
    if config.engine.ds_config:
        load_ds_config(Path(config.engine.ds_config), config.engine.stage)
    return config
