"""The GPU suite: each section costs only itself whatever becomes of it, and the whole suite runs without a GPU."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.__main__ import chosen, main
from benchmarks.gpu.runner import Runner
from benchmarks.gpu.sections import SECTIONS
from tests.benchmarks.gpu_sections import planted


def _report(folder: Path) -> dict[str, dict[str, Any]]:
    return {section["name"]: section for section in json.loads((folder / "gpu.json").read_text())["sections"]}


@pytest.fixture(scope="module")
def planted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of sections of which each goes wrong in its own way."""
    folder = tmp_path_factory.mktemp("gpu")
    names = ("good", "beyond", "broken", "stopping", "hungry", "killed", "nothing", "unable", "missing_function")
    runner = Runner(folder, "cpu", "tiny", 600.0, start="fork")
    sections = [*map(planted, names), planted("hanging", 0.1), planted("good", 60.0, "no_such_package"), planted("good", 1e5)]
    assert not runner.run(sections), "a failed section is the suite's failure"
    return folder


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("beyond", "speed is 1 x, not at least 3; error is nan, not at most 0.001"),
        ("broken", "RuntimeError: the kernel is wrong"),
        ("stopping", "SystemExit: 3"),
        ("hungry", "out of memory"),
        ("killed", "killed, as the system does when memory runs out: allocating"),
        ("nothing", "it checked nothing"),
        ("missing_function", "AttributeError: module 'tests.benchmarks.gpu_sections' has no attribute 'missing_function'"),
        ("hanging", "ended at its limit of 1 s"),
    ],
)
def test_a_section_that_goes_wrong_fails_with_its_reason_and_keeps_its_rows(planted_run: Path, name: str, reason: str) -> None:
    section = _report(planted_run)[f"right.{name}"]
    assert (section["status"], section["reason"]) == ("fail", reason)
    assert bool(section["rows"]) == (name not in ("nothing", "missing_function"))


def test_what_a_hanging_section_started_is_ended_with_it(planted_run: Path) -> None:
    child = int((planted_run / "scratch" / "child").read_text())
    stat = Path(f"/proc/{child}/stat")
    # Gone, or a zombie that its new parent has not collected yet.
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_the_table_has_every_section_with_what_was_not_run_and_why(planted_run: Path) -> None:
    page = (planted_run / "gpu.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| right.")]
    assert len(rows) == 12
    assert "| right.good | planted: good | pass |" in rows[0]
    assert "not run | 0 | no_such_package is not installed |" in rows[10]
    assert "of the budget were left |" in rows[11]
    assert "| figure | 2 s | at most 3 |" in page and "| speed | 1 x | at least 3 (missed) |" in page
    assert _report(planted_run)["right.unable"]["reason"] == "there is no nvJPEG here"
    assert "said in the log" in (planted_run / "logs" / "right.good.txt").read_text()
    assert "the kernel is wrong" in (planted_run / "logs" / "right.broken.txt").read_text()


def test_a_later_section_sees_earlier_figures_and_all_passing_is_a_pass(tmp_path: Path) -> None:
    runner = Runner(tmp_path, "cpu", "tiny", 600.0, start="fork")
    assert runner.run([planted("good"), planted("good"), planted("unable")])
    assert [row.value for row in runner.results[1].rows if row.what == "seen"] == [2.0]


def test_every_section_is_a_function_and_sections_are_picked_by_name_or_group() -> None:
    for section in SECTIONS:
        module, _, function = section.call.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), section
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)
    limits = {group: sum(s.seconds for s in SECTIONS if s.group == group) for group in ("right", "fast", "learns")}
    assert limits.keys() == {s.group for s in SECTIONS} and sum(limits.values()) > 9 * 60, "what is quick leaves time to the rest"
    assert [s.name for s in chosen(["fast.losses", "learns"])] == ["fast.losses", "learns.demo", "learns.ablation"]
    assert chosen(None) == list(SECTIONS)


def test_a_wrong_call_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--sections", "quick", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "--sections quick is not known" in capsys.readouterr().err


def test_a_folder_with_logs_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match=r"logs exists and is not this program's: give another folder"):
        Runner(tmp_path, "cpu", "tiny", 600.0, start="fork")
    assert (tmp_path / "logs" / "mine.txt").read_text() == "kept"


@pytest.mark.timeout(3600)
def test_the_whole_suite_passes_without_a_gpu(tmp_path: Path) -> None:
    # In a process of its own: Triton reads TRITON_INTERPRET when it is imported.
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu",
        "--device",
        "cpu",
        "--model",
        "tiny",
        "--minutes",
        "60",
        "--out",
        str(tmp_path),
    ]
    code = subprocess.run(command, check=False, capture_output=True).returncode
    sections = _report(tmp_path)
    assert {name: s["reason"] for name, s in sections.items() if s["status"] != "pass"} == {}
    assert code == 0 and len(sections) == len(SECTIONS)
