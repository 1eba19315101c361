"""Every row of docs/architecture.md's table of differences from the released code names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECTION = "## Where the released code differs, and what happens here"
RESTORED = re.compile(r"|yes.*|no.*|by `[a-z.=0-9]+`")


def rows() -> list[list[str]]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition(SECTION)[2].partition("\n## ")[0]
    table = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[3].split("`")[3][5:])
def test_a_difference_has_a_test_and_says_whether_compat_restores_it(row: list[str]) -> None:
    released, ours, restored, test = row
    assert released and ours and RESTORED.fullmatch(restored)
    file, name = re.findall(r"`([^`]+)`", test)
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_compat_restores_beyond_the_golden_numbers_is_tested_beside_the_released_formulas() -> None:
    tests = [row[3] for row in rows() if row[2].startswith("yes")]
    assert len(tests) >= 14 and sum(test.startswith("`released/") for test in tests) >= 10
