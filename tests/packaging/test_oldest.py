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


PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_lower_bound_of_pyproject_becomes_a_pin() -> None:
    """Counts the bounds in the text itself, so that a section that the reader forgets is missed."""
    written = re.findall(r'"([A-Za-z][\w.-]*(?:\[\w+\])?)>=([\w.]+)(?:,<[\w.]+)?"', PYPROJECT)
    assert len(written) >= 30 and PYPROJECT.count(">=") == len(written) + 1  # and Python's own
    pins = [line for lines in oldest.oldest(oldest.tomllib.loads(PYPROJECT)).values() for line in lines]
    assert sorted(pins) == sorted(f"{name}=={version}" for name, version in written)


def test_no_lower_bound_is_above_the_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split(";")[0].strip().lower().replace("_", "-").split("==") for line in lines if "==" in line)
    for name, part in oldest.declared(oldest.tomllib.loads(PYPROJECT)).items():
        for requirement in part:
            version = tested.get(requirement.name.lower().replace("_", "-"))
            assert version or name in oldest.LEFT_OUT, f"constraints.txt has no {requirement.name}"
            assert version is None or Version(oldest.lower_bound(requirement)) <= Version(version), requirement


def test_the_extras_that_make_test_installs_are_installed_and_no_others() -> None:
    [extras] = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {*extras.split(","), "build", "", *oldest.LEFT_OUT} == {*oldest.declared(oldest.tomllib.loads(PYPROJECT))}
    assert not set(extras.split(",")) & set(oldest.LEFT_OUT)


@pytest.mark.parametrize("text", ["torch", "torch<3", "torch==2.6", "torch>=2.6,>=2.7"])
def test_a_requirement_without_one_lower_bound_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"pyproject\.toml: torch.* needs one lower bound"):
        oldest.lower_bound(Requirement(text))


def test_what_is_left_out_is_there() -> None:
    for name in oldest.EXCLUDED:
        place, _, function = name.partition("::")
        assert (ROOT / place).exists() and f"def {function}" in ((ROOT / place).read_text() if function else "def ")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_the_makefile_calls_it_with_the_folder() -> None:
    command = ["make", "--dry-run", "--old-file=.venv/.ready", "test-oldest", "OLDEST=elsewhere", "JOBS=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ".venv/bin/python -m tests.packaging.oldest elsewhere -n 1 --dist worksteal" in done.stdout, done.stdout + done.stderr
