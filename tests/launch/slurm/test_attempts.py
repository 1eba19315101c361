"""A job is started again when that is useful, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from albef_ds.common.errors import MachineError
from albef_ds.launch.slurm.attempts import Attempt, History, Outcome, after, before, newest_step
from albef_ds.launch.slurm.outcome import outcome_of, read, write


def ended(outcome: Outcome, step: int, end_step: int | None = None, reason: str = "why") -> Attempt:
    return Attempt(0, "n1", step, outcome, reason, end_step)


@pytest.mark.parametrize(
    ("outcome", "action"),
    [
        ("finished", "finish"),
        ("stopped", "requeue"),
        ("crashed", "requeue"),
        ("bad node", "requeue"),
        ("mistake", "stop"),
        ("interrupted", "stop"),
    ],
)
def test_what_follows_an_attempt(outcome: Outcome, action: str) -> None:
    assert after([ended(outcome, 0, 4)], 100).action == action


def test_three_failures_without_a_new_checkpoint_are_a_loop_and_progress_is_none() -> None:
    loop = [ended("crashed", 8, 8), ended("killed", 8), ended("crashed", 8, 8, "boom")]
    assert after(loop, 100).action == "stop" and "step 8, last by: boom" in after(loop, 100).reason
    assert before(loop, 100).action == "stop"
    assert after(loop[:2], 100).action == "requeue"
    assert after([ended("crashed", 4, 8), *loop[1:]], 100).action == "requeue"  # the first one got further
    assert after([*loop[:2], ended("crashed", 8, 12)], 100).action == "requeue"  # the last one did
    assert after([ended("stopped", 8, 8), *loop[1:]], 100).action == "requeue"  # preemptions are nobody's fault
    assert before([ended("killed", 2), ended("killed", 4), ended("killed", 4)], 100).action == "go"


def test_restarts_are_bounded_whatever_ends_the_attempts() -> None:
    preempted = [ended("stopped", step, step + 1) for step in range(4)]
    assert after(preempted, 4).action == "requeue"
    assert after(preempted, 3).action == "stop" and "3 restarts are used up" in after(preempted, 3).reason
    assert before(preempted, 3).action == "stop" and before(preempted[:3], 3).action == "go"


def test_an_attempt_that_left_no_word_was_killed_and_a_torn_line_is_one_of_them(tmp_path: Path) -> None:
    history = History(tmp_path / "a.jsonl")
    history.begin(0, "n[1-2]", 0)
    history.end("stopped", "exit code 143", 6)
    history.begin(1, "n[1-3]", 6)
    with open(history.path, "a") as file:
        file.write('{"event": "en')
    assert [(a.restart, a.outcome, a.step, a.end_step) for a in history.attempts()] == [
        (0, "stopped", 0, 6),
        (1, "killed", 6, None),
    ]
    history.begin(2, "n1", 6)
    with pytest.raises(MachineError, match=r"a.jsonl line 4 is not an event"):
        history.attempts()


def test_the_first_word_of_the_ranks_counts(tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    assert read(path, 137) == ("crashed", "the ranks were killed (srun's exit code 137)")
    write(path, "crashed", "rank 1: boom")
    write(path, "finished", "")
    assert read(path, 1) == ("crashed", "rank 1: boom")
    assert [entry.name for entry in tmp_path.iterdir()] == ["outcome.json"]
    path.write_text("{")
    assert read(path, 1)[0] == "crashed"


def test_exit_codes_of_training() -> None:
    codes = {
        0: "finished",
        2: "mistake",
        130: "interrupted",
        143: "stopped",
        75: "stopped",
        1: "crashed",
        4: "mistake",
        6: "crashed",
    }
    assert {code: outcome_of(code) for code in codes} == codes


def test_progress_is_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    assert newest_step(tmp_path) == 0
    for name in ("step-0000004", "step-0000012", "step-0000013.tmp", "best"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_step(tmp_path) == 12
