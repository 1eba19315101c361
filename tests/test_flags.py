"""Only the modules that parse a command line know its flags: an error of the library names the setting, parameter or file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from data_tools.cli.arguments import parsers

ROOT = Path(__file__).resolve().parent.parent
COMMAND_LINES = ("albef_ds/cli/", "data_tools/cli/", "data_tools/scenes/command.py", "data_tools/emoji/__main__.py")
"""Where arguments are parsed."""
OTHERS = {
    ("albef_ds/launch/slurm/submit.py", "--output"): "an option of sbatch",
    ("albef_ds/launch/checks/doctor/machine.py", "--format"): "an option of findmnt or nvidia-smi",
    ("albef_ds/launch/checks/node.py", "--format"): "an option of nvidia-smi",
}
"""Options of other programs that have the name of one of ours."""
QUOTED = re.compile(r"albef-ds|albef-data|albef_ds/train\.py|python -m|srun|^ +(data|output|init|task)\S*=", re.MULTILINE)
"""What a line of a docstring holds that shows a whole command."""


@cache
def our_flags() -> frozenset[str]:
    """The flags of every parser of ours: literal first arguments of `add_argument`, and what `albef-data` builds."""
    found: set[str] = set()
    for path in (
        path for place in COMMAND_LINES for path in ([ROOT / place] if place.endswith(".py") else ROOT.glob(f"{place}**/*.py"))
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    for command in parsers()[1].values():
        found |= {option for action in command._actions for option in action.option_strings}
    return frozenset(flag for flag in found if isinstance(flag, str) and flag.startswith("--")) - {"--help"}


def spoken(source: str) -> Iterator[tuple[int, str]]:
    """(line, flag) of every flag of ours in a string of the module; docstrings may show whole commands."""
    tree = ast.parse(source)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            for line in node.value.splitlines():
                if node not in docstrings or not QUOTED.search(line):
                    yield from ((node.lineno, flag) for flag in re.findall(r"--[a-z][a-z-]*", line) if flag in our_flags())


def test_the_library_does_not_speak_of_flags() -> None:
    found, used = [], set()
    for path in sorted([*ROOT.glob("albef_ds/**/*.py"), *ROOT.glob("data_tools/**/*.py")]):
        name = str(path.relative_to(ROOT))
        if not name.startswith(COMMAND_LINES):
            for line, flag in spoken(path.read_text(encoding="utf-8")):
                used.add((name, flag))
                if (name, flag) not in OTHERS:
                    found.append(f"{name}:{line} says {flag}")
    assert found == []
    assert used == set(OTHERS), "an exception is no longer needed"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('raise ConfigError(f"{path} exists: give another, or --overwrite")', ["--overwrite"]),
        ('"""Goes on as `--resume` says."""', ["--resume"]),
        ('"""Shown:\n\n    albef-ds train --recipe debug\n"""', []),
        ('run(["git", "describe", "--always"])', []),
        ('check(path, "--output")', ["--output"]),
    ],
)
def test_a_planted_flag_is_found(source: str, said: list[str]) -> None:
    assert [flag for _, flag in spoken(source)] == said
