"""The folders of tests mirror the packages, and each says in its `__init__.py` what it tests."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PACKAGES = ("albef_ds", "data_tools")
FOLDERS = sorted({path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py")} - {"."})


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_that_of_a_package_or_says_that_it_cuts_across(folder: str) -> None:
    docstring = ast.get_docstring(ast.parse((TESTS / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    package = TESTS.parent / (folder if folder.startswith("data_tools") else f"albef_ds/{folder}")
    if "cross packages" in docstring:
        assert not (package / "__init__.py").exists(), f"tests/{folder} has the name of a package: it tests that package alone"
    else:
        assert (package / "__init__.py").exists(), f"tests/{folder} mirrors no package: move it, or say what it cuts across"
        assert docstring == f"Tests of {package.relative_to(TESTS.parent)}/."


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_its_tests(package: str) -> None:
    rooms = {path.parent.name for path in (TESTS.parent / package).glob("*/__init__.py")}
    root = TESTS / ("" if package == "albef_ds" else package)
    missing = {room for room in rooms if not list((root / room).rglob("test_*.py"))}
    assert not missing, f"no tests of {package}'s {', '.join(sorted(missing))}"
