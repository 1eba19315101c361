"""Completion in shells; docs/commands.md lists every command and exit code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from albef_ds.cli.completion import SCRIPTS, candidates, parser_of
from albef_ds.cli.main import COMMANDS, main
from albef_ds.common import exit_codes
from albef_ds.config.recipes import RECIPES
from albef_ds.config.settings import all_settings
from tests.terminal import converse

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "commands.md"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("albef-ds tra", ["train"]),
        ("albef-ds help eva", ["evaluate"]),
        ("albef-ds train --recipe pretrain_1", ["pretrain_14m"]),
        ("albef-ds recipes deb", ["debug"]),
        ("albef-ds train --recipe debug --resu", ["--resume"]),
        ("albef-ds train --recipe debug --local", []),
        ("albef-ds train --recipe debug train.max_s", ["train.max_steps="]),
        ("albef-ds train --recipe debug engine.kind=", ["engine.kind=local", "engine.kind=zero"]),
        ("albef-ds train data.flip=t", ["data.flip=true"]),
        ("albef-ds train --recipe vqa task.decoder", ["task.decoder_layers="]),
        ("albef-ds train --recipe debug task.decoder", []),
        ("albef-ds search --device c", ["cpu", "cuda"]),
        ("albef-ds search --images ", []),
        ("albef-ds nonsense ", []),
    ],
)
def test_the_last_word_of_a_line_is_completed(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_everything_is_offered_where_nothing_is_written() -> None:
    assert set(COMMANDS) < set(candidates("albef-ds "))
    assert candidates("albef-ds train --recipe ") == list(RECIPES)
    offered = candidates("albef-ds config ")
    assert set(offered) == {f"{path}=" for path in all_settings()} - {"recipe=", "task.kind="}


def test_every_command_gives_its_options_without_torch() -> None:
    code = (
        "import sys\nfrom albef_ds.cli.completion import candidates\nfrom albef_ds.cli.main import COMMANDS\n"
        "assert all('--help' in candidates(f'albef-ds {name} -') for name in COMMANDS)\n"
        "assert not {'torch', 'deepspeed', 'transformers'} & sys.modules.keys(), 'too much is loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts `albef-ds` on the search path of shells."""
    program = tmp_path / "albef-ds"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m albef_ds.cli.main "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


LINES = {"albef-ds rep": "report", "albef-ds train --recipe debug engine.kind=l": "engine.kind=local"}


@pytest.mark.usefixtures("installed")
def test_bash_completes_as_the_script_says(tmp_path: Path) -> None:
    ask = "COMP_LINE=$1; COMP_POINT=${#COMP_LINE}; _albef_ds; printf '%s\\n' \"${COMPREPLY[@]}\""
    script = f'source <(albef-ds completion bash)\nfor line in "$@"; do set -- "$line"; {ask}; echo --; done'
    done = subprocess.run(["bash", "-c", script, "bash", *LINES], cwd=tmp_path, capture_output=True, text=True)
    # bash has cut the second line's last word at its =.
    assert (done.stdout, done.stderr) == ("report\n--\nlocal\n--\n", "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.usefixtures("installed")
def test_fish_completes_as_the_script_says(tmp_path: Path) -> None:
    script = "albef-ds completion fish | source; for line in $argv; complete -C $line; end"
    done = subprocess.run(["fish", "--no-config", "-c", script, *LINES], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (list(LINES.values()), "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.usefixtures("installed")
def test_zsh_completes_as_the_script_says(tmp_path: Path) -> None:
    # Completion is part of zsh's line editor, which wants a terminal.
    setup = "autoload -Uz compinit && compinit -u -D; source <(albef-ds completion zsh); PROMPT=; echo rea''dy\n"
    typed = [(f"{line}\t", word.removeprefix(line.split()[-1]) + " ") for line, word in LINES.items()]
    said = converse(["zsh", "-f", "-i"], [(setup, "ready"), typed[0], ("\x15", ""), typed[1]], tmp_path)
    assert [said[turn].replace("\a", "").split()[-1] for turn in (1, 3)] == list(LINES.values())


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_shell_has_a_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "albef-ds completion --candidates" in script and script.endswith("\n")


def test_a_shell_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 2
    assert "no shell is named: give one of bash, zsh, fish" in capsys.readouterr().err


def rows(heading: str) -> list[list[str]]:
    """Cells of the table whose first line begins with `heading`."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = text[text.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_document_has_a_row_for_every_command() -> None:
    expected = []
    for name, (_, text) in COMMANDS.items():
        parser = parser_of(name)
        settings = any(action.dest == "overrides" for action in parser._actions)
        expected.append(
            [f"`{name}`", text, "yes" if settings else "", "yes" if "--json" in parser._option_string_actions else ""]
        )
    assert rows("command") == expected, "fix the table in docs/commands.md"


_OF_JOBS = ("REQUEUE", "STOP")
"""Exit codes for the batch scripts, which no command returns."""


def test_the_document_has_every_exit_code() -> None:
    codes = {int(value) for name, value in vars(exit_codes).items() if name.isupper() and name not in _OF_JOBS}
    assert {int(row[0]) for row in rows("code")} == codes
    known = {f"`{name}`" for name in COMMANDS} | {"all", "`submit --follow`"}
    assert {part for row in rows("code") for part in row[1].split(", ")} <= known
    helped = re.findall(r"Exit codes: (.*?)[.\"]", parser_of("train").format_help(), re.DOTALL)
    assert helped and all(str(int(code)) in parser_of("train").format_help() for code in codes - {1, 3, 141})
