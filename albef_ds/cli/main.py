"""Entry point of `albef-ds`: finds the subcommand, and turns what goes wrong into a line and an exit code.

A subcommand is a row of `COMMANDS` and a module with `main(argv: list[str]) -> int`. Modules are imported when asked
for, so `albef-ds --help` loads neither torch nor DeepSpeed.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Sequence

import albef_ds
from albef_ds.common import exit_codes
from albef_ds.common.errors import ConfigError, UserError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("albef_ds.cli.demo.command", "train on the shipped emoji corpus in minutes and retrieve by words"),
    "train": ("albef_ds.cli.train", "pretrain from a recipe or a configuration file"),
    "evaluate": ("albef_ds.cli.evaluate", "score a model by its task's official measure, on validation and test"),
    "search": ("albef_ds.cli.search", "rank a folder of pictures by a text"),
    "ask": ("albef_ds.cli.ask", "answer a question about a picture"),
    "ground": ("albef_ds.cli.ground", "show where a text is in a picture"),
    "answers": ("albef_ds.cli.answers", "build the list of answers that VQA ranks"),
    "scenes": ("data_tools.scenes.command", "write generated scenes for all tasks, with known ceilings"),
    "runs": ("albef_ds.cli.runs", "list runs with their state, step, loss, speed and last metric"),
    "report": ("albef_ds.cli.report", "write one page about a run: curves, evaluations, data, configuration"),
    "compare-curve": ("albef_ds.cli.compare_curve", "is a run's loss where its recipe's band or another run has it"),
    "plan": ("albef_ds.cli.plan", "count the memory of one GPU and choose settings that fit"),
    "doctor": ("albef_ds.cli.doctor", "what of this machine and its packages is fine, and how to mend the rest"),
    "preflight": ("albef_ds.cli.preflight", "check every node of a job, or this machine, before a run"),
    "submit": ("albef_ds.cli.submit", "submit a job to Slurm after showing its plan"),
    "convert": ("albef_ds.cli.convert", "write a model in another form: released file, safetensors, model folder"),
    "export": ("albef_ds.cli.export", "write a model's two towers and its matcher as ONNX or torch programs"),
    "inspect": ("albef_ds.cli.inspect", "say what a file of weights is and what it converts to"),
    "config": ("albef_ds.cli.config", "print every setting with its unit, the paper's value and its meaning"),
    "completion": ("albef_ds.cli.completion", "print the script that completes albef-ds in bash, zsh or fish"),
    "recipes": ("albef_ds.cli.recipes", "list the recipes that train takes"),
}
"""Subcommand -> (module, one-line help)."""


def usage() -> str:
    """The text of `albef-ds --help`."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: albef-ds COMMAND [ARGUMENTS]",
            "",
            "ALBEF vision-language pretraining on DeepSpeed.",
            "",
            "commands:",
            *rows,
            "",
            "`albef-ds COMMAND --help` explains one command; `albef-ds --version` prints the version.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code: 0, or 2 after a user's mistake (one line), or 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(arguments))


def guarded(command: Callable[[], int]) -> int:
    """`command()`, with a `UserError` as one line on standard error and Ctrl-C without a traceback."""
    try:
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
        # The reader (such as `head`) has gone; without this the interpreter complains once more while closing.
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
        raise ConfigError(
            f"{name} stands before a command: write `albef-ds COMMAND {name} ...`, for example albef-ds train {name}"
        )
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        raise ConfigError(f"there is no command {name}: {hint}")
    command: Callable[[list[str]], int] = importlib.import_module(COMMANDS[name][0]).main
    return command(rest)


def _rank_label() -> str:
    return f" [rank {os.environ.get('RANK', '?')}]" if int(os.environ.get("WORLD_SIZE") or "1") > 1 else ""


if __name__ == "__main__":
    sys.exit(main())
