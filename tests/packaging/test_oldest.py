"""`make test-oldest` takes every lower bound of pyproject.toml."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.packaging import oldest

ROOT = Path(__file__).resolve().parents[2]


def test_every_lower_bound_of_pyproject_becomes_a_pin() -> None:
    """Counts the bounds in the text itself, so that a section that the reader forgets is missed."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    written = re.findall(r'"([A-Za-z][\w.-]*)>=([\w.]+)(?:,<[\w.]+)?"', text)
    assert len(written) >= 30
    assert sorted(oldest.oldest(oldest.tomllib.loads(text))) == sorted(f"{name}=={version}" for name, version in written)


def test_no_lower_bound_is_above_the_tested_version() -> None:
    tested = dict(line.split(";")[0].strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    names = {name.lower().replace("_", "-"): version for name, version in tested.items()}
    for requirement in oldest.declared(oldest.tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))):
        version = names[requirement.name.lower().replace("_", "-")]
        assert Version(oldest.lower_bound(requirement)) <= Version(version), requirement


@pytest.mark.parametrize("text", ["torch", "torch<3", "torch==2.6", "torch>=2.6,>=2.7"])
def test_a_requirement_without_one_lower_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"pyproject\.toml: torch.* needs one lower bound"):
        oldest.lower_bound(Requirement(text))


def test_what_is_left_out_is_there() -> None:
    assert all((ROOT / place).is_dir() for place in oldest.EXCLUDED)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_makefile_calls_it_with_the_folder() -> None:
    command = ["make", "--dry-run", "--old-file=.venv/.ready", "test-oldest", "OLDEST=elsewhere", "JOBS=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ".venv/bin/python -m tests.packaging.oldest elsewhere -n 1 --dist worksteal" in done.stdout, done.stdout + done.stderr
