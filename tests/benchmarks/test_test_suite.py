"""The comparison of two runs of the tests reads what pytest writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.test_suite import SLOWEST, added, read, rows


def _file(path: Path, wall: float, seconds: list[float]) -> Path:
    cases = "".join(f'<testcase classname="tests.a" name="test_{n}" time="{time}" />' for n, time in enumerate(seconds))
    path.write_text(f'<?xml version="1.0"?><testsuites><testsuite name="pytest" time="{wall}">{cases}</testsuite></testsuites>')
    return path


def test_the_slowest_of_both_runs_stand_side_by_side(tmp_path: Path) -> None:
    before = read(_file(tmp_path / "before.xml", 60.0, [float(n) for n in range(30)]))
    after = read(_file(tmp_path / "after.xml", 30.0, [0.5, 4.25, 1.0]))
    assert (before.wall, after.wall, after.total) == (60.0, 30.0, 5.75)
    assert len(before.slowest) == SLOWEST and before.slowest[0] == ("tests.a::test_29", 29.0)
    table = rows(before, after)
    assert [row["after (s)"] for row in table] == ["4.2", "1.0", "0.5"]
    assert table[0]["test before"] == "tests.a::test_29" and table[0]["test after"] == "tests.a::test_1"


def test_added_tests_are_those_with_a_new_name_in_any_module(tmp_path: Path) -> None:
    before = read(_file(tmp_path / "before.xml", 60.0, [1.0, 1.0]))
    path = _file(tmp_path / "after.xml", 30.0, [0.5, 4.25, 1.5])
    path.write_text(path.read_text().replace("tests.a", "tests.moved"))
    assert added(before, read(path)) == [1.5]


def test_a_file_without_a_suite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.xml").write_text("<testsuites />")
    with pytest.raises(ValueError, match="holds no test suite"):
        read(tmp_path / "empty.xml")
