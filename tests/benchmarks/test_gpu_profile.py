"""The GPU profile runs to its end without a GPU, on a tiny model, so that an hour on a real one is not spent on its mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_profile


def _profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    given = ["--device", "cpu", "--model", "tiny", "--batch", "2", "--steps", "1", "--out", str(tmp_path / "gpu"), *arguments]
    monkeypatch.setattr(sys, "argv", ["gpu_profile", *given])
    gpu_profile.main()
    return {row["part"]: row["result"] for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}


def test_every_part_is_measured_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _profile(tmp_path, monkeypatch)
    steps = [result for part, result in rows.items() if part.startswith("step")]
    assert len(steps) == 6 and all("images/s" in result for result in steps)
    shares = [float(result.split("%")[0]) for part, result in rows.items() if part.startswith("kernels")]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert "TRITON_INTERPRET" in rows["Triton kernels"]


def test_what_would_begin_too_late_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _profile(tmp_path, monkeypatch, "--minutes", "0")
    assert len(rows) == 7 and all("out of time" in result for result in rows.values())


def test_a_part_that_fails_says_why_and_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUPTI is not there\nand more")

    monkeypatch.setattr(gpu_profile, "kernel_shares", broken)
    rows = _profile(tmp_path, monkeypatch)
    assert sum("images/s" in result for result in rows.values()) == 6, "the step itself was measured"
    assert [result for result in rows.values() if "failed" in result] == ["failed: RuntimeError: CUPTI is not there"]
