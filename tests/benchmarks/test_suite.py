"""`make bench`: every benchmark it names exists and takes the arguments, and a failure is named, kept and counted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.suite import SUITE, Benchmark


@pytest.mark.parametrize("entry", SUITE, ids=lambda entry: entry.title)
def test_every_entry_is_a_benchmark_that_takes_its_arguments(entry: Benchmark) -> None:
    source = (suite.HERE / f"{entry.module}.py").read_text()
    if "record_parser(__doc__" in source:  # it has `--out`
        source += (suite.HERE / "record.py").read_text()
    given = [*entry.full, *(entry.quick or ()), "--out", *([entry.work] if entry.work else [])]
    for option in (argument for argument in given if argument.startswith("--")):
        assert f'"{option}"' in source, option


def test_a_benchmark_that_fails_is_named_and_the_rest_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "SUITE", [Benchmark("Missing", "not_there"), Benchmark("Left out", "losses", quick=None)])
    monkeypatch.setattr(sys, "argv", ["suite", "--quick", "--out", str(tmp_path / "suite")])
    assert suite.main() == 1
    [record] = json.loads((tmp_path / "suite.json").read_text())["benchmarks"]
    assert record["title"] == "Missing" and "not_there" in record["failed"]
    assert "Failed: " in (tmp_path / "suite.md").read_text()
    assert "failed: Missing" in capsys.readouterr().out
