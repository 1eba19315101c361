"""Trackers that fail, hang or do not read: the run says so once and never waits."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest

from albef_ds.training.run_log import RunLogger
from albef_ds.training.trackers.child import track
from albef_ds.training.trackers.interface import TrackedRun
from albef_ds.training.trackers.processes import TrackerProcess, close_all, run_id

RECORD = "import sys, json; print(*sys.stdin, sep='', end='')"
FAIL = "import sys; sys.stdin.readline(); sys.exit('no room left')"
HANG = "import time; time.sleep(3600)"


def tracked(folder: Path, name: str = "fake") -> TrackedRun:
    return TrackedRun("ab12", "run", "albef-ds", folder / name, {"train.epochs": 1.0}, False)


def process(folder: Path, code: str, said: list[str], name: str = "fake") -> TrackerProcess:
    return TrackerProcess(name, tracked(folder, name), said.append, [sys.executable, "-c", code])


def test_records_arrive_in_order_with_the_run_first(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = process(tmp_path, RECORD, said)
    for step in range(300):
        tracker.scalars(step, {"loss": float("nan") if step == 7 else float(step)})
    tracker.image(300, "evaluation/grid", b"png")
    close_all([tracker])
    lines = [json.loads(line) for line in (tmp_path / "fake" / "log.txt").read_text().splitlines()]
    assert lines[0]["id"] == "ab12" and lines[0]["settings"] == {"train.epochs": 1.0}
    assert [line["step"] for line in lines[1:]] == list(range(301)) and lines[6]["values"] == {"loss": 5.0}
    assert base64.b64decode(lines[-1]["png"]) == b"png" and said == []


def test_a_tracker_that_fails_is_named_once_with_its_reason(tmp_path: Path) -> None:
    said: list[str] = []
    tracker = process(tmp_path, FAIL, said)
    tracker._process.wait()
    for step in range(5):
        tracker.scalars(step, {"loss": 1.0})
    close_all([tracker])
    assert len(said) == 1 and "tracker fake failed (no room left); the run goes on" in said[0]


def test_one_that_hangs_loses_records_and_delays_no_other(tmp_path: Path) -> None:
    said: list[str] = []
    hanging, sound = process(tmp_path, HANG, said, "hanging"), process(tmp_path, RECORD, said, "sound")
    for step in range(20_000):  # more than the pipe and the line hold
        hanging.scalars(step, {"loss": 1.0, "learning_rate": 1e-4})
    assert hanging._lost > 0
    sound.scalars(1, {"loss": 1.0})
    sound.end()
    sound._process.wait()
    close_all([hanging, sound], seconds=0.2)
    assert said == [said[0]] and "hanging did not finish in time and was ended" in said[0]
    assert hanging._process.returncode == -9 and len((tmp_path / "sound" / "log.txt").read_text().splitlines()) == 2


def test_the_log_of_a_run_is_whole_beside_broken_trackers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trackers: list[TrackerProcess] = []
    logger = RunLogger(tmp_path / "run", True, False, 3, board=False, trackers=trackers)
    trackers += [process(tmp_path, FAIL, [], "failing"), process(tmp_path, RECORD, [], "sound")]
    for step in (1, 2, 3):
        logger.step(step, {"loss": 1.0 / step}, samples=4, write=True)
    logger.event("evaluation", {"text": {"r1": 50.0}})
    logger.close()
    assert (
        len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
        and not (tmp_path / "run" / "tensorboard").exists()
    )
    lines = [json.loads(line) for line in (tmp_path / "sound" / "log.txt").read_text().splitlines()][1:]
    assert [line["values"].get("loss") for line in lines] == [1.0, 0.5, 1 / 3, None]
    assert lines[0]["values"]["system/memory_gb"] > 0.01 and lines[3]["values"] == {"evaluation/text.r1": 50.0}


def test_a_line_that_is_cut_off_ends_the_run_properly(tmp_path: Path) -> None:
    seen: list[object] = []

    class Recorder:
        def scalars(self, step: int, values: object) -> None:
            seen.append((step, values))

        def image(self, step: int, name: str, png: bytes) -> None:
            seen.append((step, name, png))

        def close(self) -> None:
            seen.append("closed")

    first = json.dumps({"id": "a", "name": "n", "project": "p", "folder": str(tmp_path), "settings": {}, "resumed": False}) + "\n"
    image = json.dumps({"step": 2, "image": "grid", "png": base64.b64encode(b"x").decode()}) + "\n"
    track(lambda run: Recorder(), [first, '{"step": 1, "values": {"loss": 2.0}}\n', image, '{"step": 3, "val'])
    assert seen == [(1, {"loss": 2.0}), (2, "grid", b"x"), "closed"]


def test_the_id_of_a_run_stays(tmp_path: Path) -> None:
    first = run_id(tmp_path / "trackers" / "id")
    assert run_id(tmp_path / "trackers" / "id") == first and len(first) == 8 and run_id(tmp_path / "other") != first
