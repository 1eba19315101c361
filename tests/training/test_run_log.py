"""Tests the log of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.run_files import METRICS_NAME
from albef_ds.training.run_log import RunLogger
from tests.terminal import run_on_terminal


def records(folder: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (folder / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_written_steps_reach_terminal_file_and_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(tmp_path, enabled=True, progress=True, total_steps=4)
    for step in range(1, 5):
        logger.step(step, {"loss": 8.0 / step, "learning_rate": 1e-4, "data_wait": 0.0}, samples=16, write=step % 2 == 0)
    logger.event("retrieval", {"text": {"r1": 0.5}, "split": "val"})
    logger.close()
    logger.close()
    assert [(r["kind"], r["step"]) for r in records(tmp_path)] == [("step", 2), ("step", 4), ("retrieval", 4)]
    assert records(tmp_path)[0]["loss"] == 4.0
    assert records(tmp_path)[0]["images_per_second"] > 0
    assert records(tmp_path)[2]["text"] == {"r1": 0.5}
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith("step 2/4 (50.0%, ")
    assert "loss 4" in printed[0] and "lr 0.0001" in printed[0] and "img/s" in printed[0] and "wait 0%" in printed[0]
    assert printed[-1] == "retrieval at step 4: text.r1 0.5  split val"
    board = scalars(tmp_path)
    assert board["loss"] == [(2, 4.0), (4, 2.0)]
    assert board["retrieval/text.r1"] == [(4, 0.5)]


def test_tensorboard_has_what_changes_and_what_is_measured(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, enabled=True, progress=False, total_steps=None)
    for step, alpha in enumerate((0.0, 0.0, 0.2, 0.2), start=1):
        numbers = {"loss": 1.0, "itm_accuracy": 0.5, "alpha": alpha, "fuse": 1.0}
        logger.step(step, numbers, samples=1, write=True)
    logger.event("evaluation", {"retrieval/i2t_r1": 5.0, "retrieval/i2t_r1_chance": 1.0, "retrieval/num_images": 100})
    logger.close()
    board = scalars(tmp_path)
    assert set(board) == {"loss", "itm_accuracy", "alpha", "images_per_second", "evaluation/retrieval/i2t_r1"}
    assert [step for step, _ in board["loss"]] == [1, 2, 3, 4] and [step for step, _ in board["alpha"]] == [1, 3, 4]
    assert records(tmp_path)[0]["fuse"] == 1.0 and records(tmp_path)[-1]["retrieval/num_images"] == 100, "the file has all"


def test_speed_and_waiting_count_every_step_of_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("albef_ds.training.run_log.time.perf_counter", lambda: now[0])
    logger = RunLogger(tmp_path, enabled=True, progress=False, total_steps=None)
    for step in (1, 2):
        now[0] += 2.0
        logger.step(step, {"data_wait": 0.5}, samples=10, write=step == 2)
    now[0] += 5.0
    logger.pause(3.0)
    logger.step(3, {"data_wait": 1.0}, samples=10, write=True)
    logger.close()
    assert [(r["images_per_second"], r["data_wait_share"]) for r in records(tmp_path)] == [(5.0, 0.25), (5.0, 0.5)]


def test_a_number_that_is_not_finite_is_null_in_the_file_and_named_aloud(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = RunLogger(tmp_path, enabled=True, progress=False, total_steps=None)
    logger.step(1, {"loss": float("nan"), "grad_norm": float("inf"), "alpha": 0.4}, samples=1, write=True)
    logger.event("evaluation", {"r": {"mean": float("nan")}, "ranks": [1.0, float("inf")]})
    logger.close()
    step, evaluation = records(tmp_path)
    assert (step["loss"], step["grad_norm"], step["alpha"], step["nonfinite"]) == (None, None, 0.4, ["loss", "grad_norm"])
    assert (evaluation["r"], evaluation["ranks"], evaluation["nonfinite"]) == ({"mean": None}, [1.0, None], ["r.mean", "ranks.1"])
    printed = capsys.readouterr().err
    assert "not finite at step 1: loss, grad_norm" in printed
    assert "loss nan" in printed


def test_a_resumed_run_appends_after_cutting_half_a_record(tmp_path: Path) -> None:
    first = RunLogger(tmp_path, enabled=True, progress=False, total_steps=9)
    first.step(5, {"loss": 1.0}, samples=1, write=True)
    first.close()
    with open(tmp_path / METRICS_NAME, "a", encoding="utf-8") as file:
        file.write('{"kind": "step", "st')
    second = RunLogger(tmp_path, enabled=True, progress=False, total_steps=9)
    second.step(6, {"loss": 0.5}, samples=1, write=True)
    second.close()
    assert [r["step"] for r in records(tmp_path)] == [5, 6]


def test_a_record_is_in_the_file_before_the_run_ends(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, enabled=True, progress=False, total_steps=None)
    logger.step(1, {"loss": 1.0}, samples=1, write=True)
    assert len(records(tmp_path)) == 1
    logger.close()


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(tmp_path / "run", enabled=False, progress=True, total_steps=1)
    logger.step(1, {"loss": float("nan")}, samples=1, write=True)
    logger.event("retrieval", {"r1": 1.0})
    logger.message("hello")
    logger.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_starts_where_the_run_resumed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from albef_ds.training.run_log import RunLogger\n"
        f"logger = RunLogger(Path({str(tmp_path)!r}), True, True, 100)\n"
        "for step in (51, 52): logger.step(step, {'loss': 3.5}, samples=8, write=True)\n"
        "logger.message('above the bar'); logger.close()"
    )
    _, text = run_on_terminal(program, 160)
    assert "52/100" in text and "above the bar" in text and "loss 3.5" in text
    assert " 0/100" not in text and " 1/100" not in text
