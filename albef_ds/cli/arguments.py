"""What subcommands share: a parser whose errors are `ConfigError`, and the arguments that make a `RunConfig`."""

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


class ParserFound(Exception):  # noqa: N818 (no error: what was looked for)
    """Ends a command that was called within `inspecting`; carries its parser."""

    def __init__(self, parser: CommandParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


@contextlib.contextmanager
def inspecting() -> Iterator[None]:
    """Commands called within the block raise `ParserFound` in place of parsing: for completion and the documentation."""
    token = _inspected.set(True)
    try:
        yield
    finally:
        _inspected.reset(token)


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

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, which all its other ways to parse come through; within `inspecting` it gives the parser away."""
        if _inspected.get():
            raise ParserFound(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError` in place of printing the usage and leaving the process."""
        unknown = re.fullmatch(r"unrecognized arguments: --([^ =]+).*", message, re.DOTALL)
        hint = self._hint(unknown.group(1)) if unknown else ""
        raise ConfigError(f"{message}: {hint or f'`{self.prog} --help` shows the arguments'}")

    def _hint(self, option: str) -> str:
        """What was meant by the unknown `--option`: another option, or a setting, which takes no dashes."""
        if close := difflib.get_close_matches(f"--{option}", self._option_string_actions, n=1, cutoff=0.7):
            return f"did you mean {close[0]}?"
        takes_settings = any(action.dest == "overrides" for action in self._actions)
        path = option.replace("-", "_")
        if takes_settings and (path in all_settings() or (path := nearest_path(path))):
            return f"settings stand without dashes, write {path}=VALUE"
        return ""


def whole_number(least: int) -> Callable[[str], int]:
    """A `type=` for arguments: whole numbers from `least` on."""

    def read(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,18}", text) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} cannot be used: give a whole number from {least} on")
        return int(text)

    return read


def number_between(low: float, high: float) -> Callable[[str], float]:
    """A `type=` for arguments: numbers from `low` to `high`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} cannot be used: give a number from {low:g} to {high:g}")
        return value

    return read


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Put `option` before the text of a `UserError` that the block raises: what is called does not know the command line."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{option}: {error}") from None


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add `--recipe | --config` and the positional overrides; `required` refuses a command line with neither."""
    parser.set_defaults(source_required=required)
    source = parser.add_mutually_exclusive_group()
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
    elif arguments.config is None and arguments.source_required:
        given = next((word for word in arguments.overrides if word in RECIPES), "NAME")
        raise ConfigError(f"one of --recipe and --config is required: add --recipe {given} (`albef-ds recipes` lists them)")
    else:
        config = RunConfig() if arguments.config is None else load(arguments.config)
    config = parse_overrides(config, [*arguments.overrides, *extra])
    if config.engine.ds_config:
        load_ds_config(Path(config.engine.ds_config), config.engine.stage)
    return config
