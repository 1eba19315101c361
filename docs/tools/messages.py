"""Finds every message for users in the source and writes the tables of docs/messages.md.

`python -m docs.tools.messages` rewrites the page; `tests/docs/test_messages.py` fails if it is stale. Messages are read
from the syntax trees, so a file that raises a text composed elsewhere must be listed in `PASSED_ON`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs.tools.generated import ROOT, rewrite

PAGE = ROOT / "docs" / "messages.md"
NAME = "messages"

ERRORS = (
    "ConfigError",
    "DataError",
    "WeightsError",
    "MachineError",
    "UserError",
    "ArgumentTypeError",
    "DamageError",
    "FileExistsError",
)
"""Exceptions whose text a user reads."""

PASSED_ON = {
    "albef_ds/checkpoint/find.py": "a problem of the store that rank 0 met",
    "albef_ds/config/files.py": "a message of the settings with the file's name before it",
    "albef_ds/data/stream/loader.py": "a message that a loader process raised",
    "albef_ds/engine/zero/rendezvous.py": "the ranks that did not start, with their hosts",
    "albef_ds/inference/serving/service.py": "a message about a file, without its folder",
    "albef_ds/training/run_folder.py": "a message that rank 0 raised",
}
"""Files that raise a text composed elsewhere, and the origin of the text."""


@dataclass(frozen=True)
class Subject:
    """Messages with the same kind of fix."""

    title: str
    prefixes: tuple[str, ...]
    advice: str


SUBJECTS = (
    Subject(
        "The demonstration and generated scenes",
        ("albef_ds/cli/demo/", "data_tools/scenes/"),
        "See [demo.md](demo.md).",
    ),
    Subject(
        "Slurm",
        ("albef_ds/launch/slurm/", "albef_ds/launch/checks/", "albef_ds/cli/slurm/", "slurm/"),
        "Site settings are in `slurm/site.env`; [slurm.md](slurm.md) describes preflight and the reaction to each event.",
    ),
    Subject(
        "The page to search and ask",
        ("albef_ds/inference/serving/", "albef_ds/cli/serve.py"),
        "`albef-ds serve` is described in [serving.md](serving.md); its JSON endpoints answer with the same lines.",
    ),
    Subject(
        "The command line and settings",
        ("albef_ds/cli/", "albef_ds/config/", "albef_ds/training/stop.py"),
        "`albef-ds COMMAND --help` shows the arguments, `albef-ds config` every setting with its unit and range "
        "([configuration.md](configuration.md)). These errors appear before anything is started or written.",
    ),
    Subject(
        "Building, starting and reporting a run",
        ("albef_ds/engine/", "albef_ds/training/", "albef_ds/tasks/", "albef_ds/models/", "albef_ds/common/"),
        "The settings do not fit the machine, the ranks do not find each other, or the output folder is in use. "
        "`albef-ds doctor` checks the machine; [pretraining.md](pretraining.md) lists the numbers to watch.",
    ),
    Subject(
        "Initial weights",
        ("albef_ds/checkpoint/initial/", "albef_ds/checkpoint/fill.py"),
        "The file does not match the settings: compare `albef-ds inspect FILE` with the `model.` settings. "
        "A file is never loaded in part ([finetuning.md](finetuning.md#where-the-weights-come-from)).",
    ),
    Subject(
        "Conversion and files of weights",
        ("albef_ds/checkpoint/formats/", "albef_ds/checkpoint/tensor_files/", "albef_ds/checkpoint/names.py"),
        "The source is never changed, and a destination is complete or absent ([conversion.md](conversion.md)).",
    ),
    Subject(
        "Checkpoints and resuming",
        ("albef_ds/checkpoint/",),
        "Older checkpoints stay until a newer one is complete, so `--resume auto` finds one ([checkpoints.md](checkpoints.md)).",
    ),
    Subject(
        "Shards and the stream",
        ("albef_ds/data/",),
        "`albef-data verify FOLDER` lists the damage of a corpus; annotation files are described in "
        "[evaluation.md](evaluation.md#annotation-files).",
    ),
    Subject(
        "Evaluation, and a model on your own images",
        ("albef_ds/evaluation/", "albef_ds/metrics/", "albef_ds/inference/"),
        "See [evaluation.md](evaluation.md) and, for calls from Python, [conversion.md](conversion.md#in-python).",
    ),
    Subject(
        "Planning and local ranks",
        ("albef_ds/launch/",),
        "The plan names its largest part; [memory.md](memory.md) describes how to reduce it.",
    ),
    Subject(
        "Data tools",
        ("data_tools/",),
        "The same command continues where it stopped ([data_tools.md](data_tools.md)).",
    ),
    Subject(
        "Installation",
        ("Makefile",),
        "`make demo` needs git, make and Python 3.10 or later.",
    ),
)
"""The headings of the page; a file belongs to the first subject with a prefix of its path."""


@dataclass(frozen=True)
class Message:
    """One message: its file, and its text with placeholders in braces."""

    path: str
    text: str


def collect(root: Path = ROOT) -> list[Message]:
    """Returns every message of the packages, the Slurm scripts and the Makefile, by file and in their order there."""
    found = [
        Message(str(path.relative_to(root)), text)
        for package in ("albef_ds", "data_tools")
        for path in sorted((root / package).rglob("*.py"))
        for text in in_python(path.read_text(encoding="utf-8"), str(path.relative_to(root)))
    ]
    for path in (root / "slurm" / "lib.sh", root / "Makefile"):
        found += [Message(str(path.relative_to(root)), text) for text in in_shell(path.read_text(encoding="utf-8"))]
    return list(dict.fromkeys(found))


def in_python(source: str, path: str) -> Iterator[str]:
    """Yields the messages of one module.

    Raises:
        ValueError: a message is not a literal, in a file that `PASSED_ON` does not list.
    """
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if name in ERRORS and call.args:
            text = template(call.args[0])
            if text is None and path not in PASSED_ON:
                raise ValueError(f"{path} line {call.lineno} raises a text from elsewhere: add the file to PASSED_ON")
            if text is not None:
                yield text
        elif name == "require" and len(call.args) == 4:
            setting, problem, fix = (template(part) or placeholder(part) for part in call.args[1:])
            yield f"{setting} {problem}: {fix}"
        elif name == "_end" and path == "albef_ds/training/watchdog.py" and (text := template(call.args[0])) is not None:
            yield text


def template(node: ast.expr) -> str | None:
    """Returns the text of a literal, an f-string or a sum of them; None for any other expression."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or "" for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return placeholder(node.value)
    if isinstance(node, ast.BinOp):
        left, right = template(node.left), template(node.right)
        return None if left is None or right is None else left + right
    return None


def placeholder(node: ast.expr) -> str:
    """Returns the placeholder of a value: its name in braces, `{number}` for a count, `{...}` for anything longer."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "len":
        return "{number}"
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else "..."
    return f"{{{name.strip('_')}}}"


def in_shell(source: str) -> list[str]:
    """Returns the texts of `fail`, `say "stop: ..."` and `echo "make: ..."`."""
    return re.findall(r'(?:fail|say(?= "stop)|echo(?= "make:)) "([^"\n]*)"', source)


def subject_of(path: str) -> Subject:
    """Returns the subject of a file's messages. Raises `ValueError` if there is none."""
    for subject in SUBJECTS:
        if path.startswith(subject.prefixes):
            return subject
    raise ValueError(f"{path} has messages but no subject: add one in {Path(__file__).name}")


def page_text(messages: list[Message]) -> str:
    """Returns the generated part of docs/messages.md."""
    by_subject: dict[str, list[Message]] = {subject.title: [] for subject in SUBJECTS}
    for message in messages:
        by_subject[subject_of(message.path).title].append(message)
    parts = []
    for subject in SUBJECTS:
        if rows := by_subject[subject.title]:
            parts.append(f"## {subject.title}\n\n{subject.advice}\n\n| message | from |\n|---|---|")
            parts[-1] += "".join(f"\n| {cell(row.text)} | `{row.path}` |" for row in rows)
    return "\n\n".join(parts)


def cell(text: str) -> str:
    """Returns `text` as code in a table's cell."""
    one_line = " ".join(text.split()).replace("|", "\\|")
    fence = "``" if "`" in one_line else "`"
    padding = " " if fence == "``" else ""
    return f"{fence}{padding}{one_line}{padding}{fence}"


def main() -> None:
    """Writes the page."""
    rewrite(PAGE, NAME, page_text(collect()))


if __name__ == "__main__":
    main()
