"""`albef-ds completion`: completes commands, options, recipes, settings and their values in a shell.

The shell calls this program at every tab, so candidates are never out of date. Does not import torch.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

from albef_ds.cli.arguments import CommandParser, ParserFound, inspecting
from albef_ds.cli.main import COMMANDS
from albef_ds.config.recipes import RECIPES, get_recipe
from albef_ds.config.schema import PretrainConfig
from albef_ds.config.settings import Setting, all_settings

EXAMPLES = """\
  bash, in ~/.bashrc
      source <(albef-ds completion bash)
  zsh, in ~/.zshrc after compinit
      source <(albef-ds completion zsh)
  fish
      albef-ds completion fish > ~/.config/fish/completions/albef-ds.fish"""

BASH = """\
_albef_ds() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$'\\n'
    local word=${line##* }
    COMPREPLY=($(albef-ds completion --candidates "$line" 2>/dev/null))
    # bash splits words at =, so the part before it is already on the line.
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}"); fi
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}
complete -o default -F _albef_ds albef-ds
"""
ZSH = """\
#compdef albef-ds
_albef_ds() {
    local -a found
    found=(${(f)"$(albef-ds completion --candidates "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( ${#found} )); then
        compadd -S ' ' -- ${found:#*=}
        compadd -S '' -- ${(M)found:#*=}
    else
        _files
    fi
}
compdef _albef_ds albef-ds
"""
FISH = """\
complete -c albef-ds -a '(albef-ds completion --candidates (commandline -cp | string collect) 2>/dev/null)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def main(argv: list[str]) -> int:
    """Prints a shell's script, or the candidates for a line. Raises `UserError` for an unknown shell."""
    command = CommandParser("completion", "Print the script that completes albef-ds in a shell.", EXAMPLES)
    command.add_argument("shell", nargs="?", choices=tuple(SCRIPTS), help="which shell")
    command.add_argument("--candidates", metavar="LINE", help=argparse.SUPPRESS)
    arguments = command.parse_args(argv)
    if arguments.candidates is not None:
        for candidate in candidates(arguments.candidates):
            print(candidate)
    elif arguments.shell is None:
        command.error(f"no shell is named: give one of {', '.join(SCRIPTS)}")
    else:
        print(SCRIPTS[arguments.shell], end="")
    return 0


def parser_of(name: str) -> CommandParser:
    """The parser of the command `name`, without running it."""
    with inspecting():
        try:
            importlib.import_module(COMMANDS[name][0]).main([])
        except ParserFound as found:
            return found.parser
    raise AssertionError(f"{name} parses nothing")


def candidates(line: str) -> list[str]:
    """Completions of the last word of `line`; empty: file names.

    Args:
        line: command line from the program's name to the cursor; a space at the end begins a new word.
    """
    words = line.split(" ")[1:]
    if len(words) < 2:
        return _beginning(words[-1] if words else "", [*COMMANDS, "help", "--help", "--version"])
    name, *before, word = (part for part in words if part or part is words[-1])
    if name == "help":
        return _beginning(word, COMMANDS)
    if name not in COMMANDS:
        return []
    parser = parser_of(name)
    last = parser._option_string_actions.get(before[-1]) if before else None
    if last is not None and last.nargs != 0:
        return _beginning(word, _values(last))
    if word.startswith("-"):
        shown = [option for option, action in parser._option_string_actions.items() if action.help != argparse.SUPPRESS]
        return _beginning(word, [option for option in shown if option not in before])
    positional = [action for action in parser._actions if not action.option_strings]
    found = [value for action in positional for value in _values(action)]
    if any(action.dest == "overrides" for action in positional):
        found += _settings(word, before)
    return _beginning(word, found)


def _beginning(word: str, names: Sequence[str] | dict[str, tuple[str, str]]) -> list[str]:
    return [name for name in names if name.startswith(word)]


def _values(action: argparse.Action) -> list[str]:
    if action.dest == "recipe" or (action.dest == "name" and not action.option_strings):
        return list(RECIPES)
    return [str(choice) for choice in action.choices or ()]


def _settings(word: str, before: list[str]) -> list[str]:
    """Settings as `path=`, and after it their values, for the task of the recipe on the line."""
    recipe = before[before.index("--recipe") + 1] if "--recipe" in before[:-1] else ""
    task: type = type(get_recipe(recipe).task) if recipe in RECIPES else PretrainConfig
    settings = all_settings(task)
    path, equals, _ = word.partition("=")
    if not equals:
        return [f"{path}=" for path in settings if path not in ("recipe", "task.kind")]  # set by --recipe only
    return [f"{path}={value}" for value in _choices(settings[path])] if path in settings else []


def _choices(setting: Setting) -> list[str]:
    if get_origin(setting.annotation) is Literal:
        return [str(value) for value in get_args(setting.annotation)]
    return ["true", "false"] if setting.annotation is bool else []
