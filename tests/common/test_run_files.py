"""Only one module spells the names of a run's files."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from albef_ds.common import run_files
from albef_ds.common.run_files import MARKER_NAME, complete_steps, rank_file, step_folder, step_folders, step_of, tensors_file

ROOT = Path(__file__).resolve().parents[2]
NAMES = {value for name, value in vars(run_files).items() if name.isupper() and isinstance(value, str)} - {run_files.LOGS_FOLDER}
"""Without `logs`: other folders have that name too."""
OTHERS = {
    ("albef_ds/launch/checks/node.py", "checkpoints"),
    ("albef_ds/config/train.py", "checkpoints"),
    ("albef_ds/config/ds_config.py", "tensorboard"),
    ("albef_ds/config/train.py", "tensorboard"),
    ("albef_ds/training/start.py", "tensorboard"),
}
"""Exceptions: the name of a check, a unit, one of DeepSpeed's settings, and a tracker."""


def test_names_are_those_of_runs_made_before() -> None:
    assert (run_files.CONFIG_NAME, run_files.METRICS_NAME, run_files.STATE_NAME) == ("config.json", "metrics.jsonl", "state.json")
    assert (run_files.CHECKPOINTS_FOLDER, run_files.MARKER_NAME) == ("checkpoints", "complete.json")
    assert (step_folder(12), rank_file(3), tensors_file("exp_avg")) == (
        "step-0000012",
        "rank-00003.safetensors",
        "exp_avg.safetensors",
    )


def test_no_other_file_spells_them() -> None:
    paths = [path for package in ("albef_ds", "data_tools", "benchmarks") for path in sorted((ROOT / package).rglob("*.py"))]
    found = {
        (str(path.relative_to(ROOT)), node.value)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in NAMES
    }
    assert {file for file, _ in found - OTHERS} == {"albef_ds/common/run_files.py"}


@pytest.mark.parametrize("step", [0, 1, 9_999_999, 10_000_000])
def test_a_step_is_read_from_its_folders_name(step: int) -> None:
    assert step_of(step_folder(step)) == step


@pytest.mark.parametrize("name", ["step-0000004.tmp", "abandoned-step-0000009", "step-", "best.json", "0000004", "step-²"])
def test_other_names_are_no_steps(name: str) -> None:
    assert step_of(name) is None


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name in ("step-10000000", "step-9999999", "step-0000005", "step-0000006.tmp", "abandoned-step-0000004"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MARKER_NAME).touch()
    (tmp_path / "step-0000005" / MARKER_NAME).unlink()
    (tmp_path / "step-0000007").touch()
    assert list(step_folders(tmp_path)) == [5, 9_999_999, 10_000_000]
    assert complete_steps(tmp_path) == [9_999_999, 10_000_000]
    assert complete_steps(tmp_path / "nowhere") == []
