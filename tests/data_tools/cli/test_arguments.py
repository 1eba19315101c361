"""The command line of `albef-data`: what it lists for other programs, what it explains, and what it needs for that."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from data_tools.cli import main
from data_tools.cli.arguments import parsers, stages
from data_tools.cli.commands import COMMANDS
from data_tools.config import PRESETS
from data_tools.readers import READERS

HEAVY = {"numpy", "pyarrow", "scipy", "PIL", "torch", "fsspec"}
LIST = "import sys\nfrom data_tools.cli import main\nmain(['stages'])\nprint(*sorted(sys.modules), file=sys.stderr)"
WITHOUT_PYARROW = "import sys\nsys.modules['pyarrow'] = None\nfrom data_tools.cli import main\nsys.exit(main(sys.argv[1:]))"


def test_listing_the_stages_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split()) and json.loads(done.stdout) == stages()


def test_a_missing_package_is_named_where_it_is_needed() -> None:
    run = [sys.executable, "-c", WITHOUT_PYARROW]
    assert subprocess.run([*run, "stages"], capture_output=True).returncode == 0
    done = subprocess.run([*run, "report", "--work", "w"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "albef-data: pyarrow is not installed: pip install 'albef-ds[data]'\n")


def test_every_command_does_something() -> None:
    assert {*COMMANDS, "stages"} == set(parsers()[1])


@pytest.mark.parametrize("command", ["build", "catalog", "hashes"])
def test_help_explains_the_kinds_of_sources(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in READERS)
    assert all(f"  {name} " in said for name in PRESETS) == (command == "build")
