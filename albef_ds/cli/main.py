"""Entry point of `albef-ds`: calls the subcommand and turns errors into one line and an exit code.

A subcommand is a row of `COMMANDS` and a module with `main(argv: list[str]) -> int`. The module is imported when the command is
called, so `albef-ds --help` imports neither torch nor DeepSpeed.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import albef_ds
from albef_ds.common import exit_codes
from albef_ds.common.errors import ConfigError, UserError
from albef_ds.common.notices import Notice

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("albef_ds.cli.demo.command", "train on the shipped emoji corpus in minutes and retrieve by words"),
    "train": ("albef_ds.cli.train", "pretrain from a recipe or a configuration file"),
    "evaluate": ("albef_ds.cli.evaluate", "score a model by its task's official metric, on validation and test"),
    "search": ("albef_ds.cli.search", "rank a folder of images by a text"),
    "serve": ("albef_ds.cli.serve", "search folders of images in the browser, ground words in them, and ask"),
    "classify": ("albef_ds.cli.classify", "sort images into named classes without training, and score that"),
    "ask": ("albef_ds.cli.ask", "answer questions about an image"),
    "ground": ("albef_ds.cli.ground", "show where a text is in an image"),
    "answers": ("albef_ds.cli.answers", "build the list of answers that VQA ranks"),
    "scenes": ("data_tools.scenes.command", "write generated scenes for all tasks, with known ceilings"),
    "runs": ("albef_ds.cli.runs", "list runs with their state, step, loss, speed and last metric"),
    "report": ("albef_ds.cli.report", "write one page about a run: curves, evaluations, data, configuration"),
    "compare-curve": ("albef_ds.cli.compare_curve", "compare a run's loss with its recipe's band or with another run"),
    "plan": ("albef_ds.cli.plan", "count the memory of one GPU and choose settings that fit"),
    "doctor": ("albef_ds.cli.doctor", "check this machine and its packages, with a fix for every problem"),
    "preflight": ("albef_ds.cli.preflight", "check every node of a job, or this machine, before a run"),
    "submit": ("albef_ds.cli.submit", "submit a job to Slurm after showing its plan"),
    "convert": ("albef_ds.cli.convert", "write a model in another format: released file, safetensors, model folder"),
    "push": ("albef_ds.cli.push", "upload a model to the Hugging Face Hub"),
    "pull": ("albef_ds.cli.pull", "copy a model of the Hugging Face Hub into a folder"),
    "export": ("albef_ds.cli.export", "write a model's two towers and its matcher as ONNX or torch programs"),
    "inspect": ("albef_ds.cli.inspect", "describe a file of weights and its possible conversions"),
    "config": ("albef_ds.cli.config", "print every setting with its unit, the paper's value and its meaning"),
    "completion": ("albef_ds.cli.completion", "print the script that completes albef-ds in bash, zsh or fish"),
    "recipes": ("albef_ds.cli.recipes", "list the recipes that train takes"),
}
"""Subcommand -> (module, one-line help)."""


def usage() -> str:
    """The text of `albef-ds --help`."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: albef-ds COMMAND [ARGUMENTS]\n\nALBEF vision-language pretraining on DeepSpeed.\n\n"
        f"commands:\n{rows}\n\n`albef-ds COMMAND --help` explains one command; `albef-ds --version` prints the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code: 0, 2 after a user's mistake (one line), 130 after Ctrl-C, or its own."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(arguments))


def guarded(command: Callable[[], int]) -> int:
    """Runs `command` and returns its exit code. Prints a `UserError` as one line on standard error, Ctrl-C without traceback."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning(warnings.showwarning)
            code = command()
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"albef-ds{_rank_label()}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return exit_codes.MISTAKE
    except KeyboardInterrupt:
        print(f"albef-ds{_rank_label()}: interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        # The reader (such as `head`) has exited; without this the interpreter reports it again while closing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.BROKEN_PIPE


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["help"]:
        print(usage())
        return 0 if arguments else exit_codes.MISTAKE
    name, *rest = arguments
    if name == "--version":
        print(f"albef-ds {albef_ds.__version__}")
        return 0
    if name == "help":
        name, rest = rest[0], ["--help"]
    if name.startswith("-"):
        raise ConfigError(f"{name} is before the command: write `albef-ds COMMAND {name} ...`, for example albef-ds train {name}")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise ConfigError(f"there is no command {name}: {hint}")
    command: Callable[[list[str]], int] = importlib.import_module(COMMANDS[name][0]).main
    return command(rest)


def _show_warning(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Returns a `warnings.showwarning` that prints a `Notice` as one line, on the first rank only."""

    def show(message: Warning | str, category: type[Warning], *arguments: Any, **named: Any) -> None:
        if not issubclass(category, Notice):
            otherwise(message, category, *arguments, **named)
        elif os.environ.get("RANK", "0") == "0":
            print(f"albef-ds: {message}", file=sys.stderr)

    return show


def _rank_label() -> str:
    return f" [rank {os.environ.get('RANK', '?')}]" if int(os.environ.get("WORLD_SIZE") or "1") > 1 else ""


if __name__ == "__main__":
    sys.exit(main())
