"""Which checkpoints stay, and that deleting never leaves half of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from albef_ds.checkpoint.retention import best_step, keep, record_scores, tidy
from albef_ds.common.run_files import MARKER_NAME, complete_steps, step_folder


def make(root: Path, *steps: int) -> Path:
    for step in steps:
        (root / step_folder(step)).mkdir(parents=True)
        (root / step_folder(step) / MARKER_NAME).write_text("{}")
    return root


@pytest.mark.parametrize(
    ("last", "every", "best", "kept"),
    [
        (2, 0, None, {40, 50}),
        (1, 20, None, {20, 40, 50}),
        (1, 0, 10, {10, 50}),
        (0, 0, None, {10, 20, 30, 40, 50}),
        (9, 0, None, {10, 20, 30, 40, 50}),
    ],
)
def test_the_last_every_so_many_and_the_best_stay(last: int, every: int, best: int | None, kept: set[int]) -> None:
    assert keep([10, 20, 30, 40, 50], last=last, every=every, best=best) == kept


@pytest.mark.parametrize(("metric", "best"), [("r1", 20), ("-loss", 30)])
def test_best_is_by_the_evaluation_at_the_checkpoints_own_step(tmp_path: Path, metric: str, best: int) -> None:
    make(tmp_path, 10, 20, 30)
    for step, r1, loss in ((10, 1.0, 3.0), (20, 5.0, 2.0), (25, 9.0, 0.0), (30, 4.0, 1.0)):
        record_scores(tmp_path, step, {"r1": r1, "loss": loss})
    assert best_step(tmp_path, metric) == best
    tidy(tmp_path, last=1, every=0, metric=metric)
    assert complete_steps(tmp_path) == sorted({best, 30})
    assert json.loads((tmp_path / "best.json").read_text())["folder"] == step_folder(best)


def test_unfinished_and_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    make(tmp_path, 1, 2, 3)
    (tmp_path / "step-0000004.tmp").mkdir()
    (tmp_path / "abandoned-step-0000009").mkdir()
    tidy(tmp_path, last=1, every=0, metric="")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["abandoned-step-0000009", "step-0000003", "step-0000004.tmp"]
