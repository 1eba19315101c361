"""A few of the damaged inputs of `benchmarks/data_tools_fuzz.py`: no traceback, nothing lost or changed unsaid."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.data_tools_fuzz import CASES, finished, run_case


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished work folder and its corpus."""
    folder = tmp_path_factory.mktemp("fuzz") / "whole"
    finished(folder)
    return folder


@pytest.mark.parametrize("seed", range(len(CASES)))
def test_a_damaged_input_has_a_wanted_outcome(whole: Path, tmp_path: Path, seed: int) -> None:
    kind, outcome = run_case(seed, whole, tmp_path)
    assert kind == CASES[seed % len(CASES)] and not outcome.startswith("fault"), outcome
