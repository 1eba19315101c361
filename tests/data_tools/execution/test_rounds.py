"""Array tasks share the rounds of a reduction: nobody waits long for one that is gone, and none mixes with other settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import ConfigError
from data_tools.execution import rounds
from data_tools.execution.executors import Parallel
from data_tools.execution.stage_folder import StageFolder


@dataclass(frozen=True)
class Written:
    """A task that writes its output."""

    output: Path


def write(task: Written) -> None:
    task.output.parent.mkdir(exist_ok=True)
    task.output.write_bytes(task.output.parent.name.encode())


def opened(work: Path, parallel: Parallel, count: int = 5, **settings: int) -> tuple[StageFolder, list[Written]]:
    stage = rounds.open_reduction(work, "dedup", settings, parallel)
    parts = rounds.parts_folder(stage, 2)
    return stage, [Written(parts / f"{number}.npz") for number in range(count)]


class Clock:
    """Time that passes only in `sleep`; each of `events` happens before one sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.events = 0.0, list[Any]()
        monkeypatch.setattr(rounds, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.events:
            self.events.pop(0)()


def test_tasks_that_others_leave_undone_are_all_taken_over_after_one_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    opened(tmp_path, Parallel())
    share = Parallel(1, "", 1, 4)
    _, tasks = opened(tmp_path, share, 9)
    clock.events = [lambda: None, lambda: write(tasks[0])]  # task 0 of the array does one part and dies
    rounds.run_round(write, tasks, share, "test")
    assert all(task.output.exists() for task in tasks)
    assert rounds.PATIENCE < clock.now < rounds.PATIENCE + 5


def test_a_slow_array_task_leaves_out_what_was_taken_over(tmp_path: Path) -> None:
    share = Parallel(1, "", 0, 2)
    _, tasks = opened(tmp_path, share, 4)

    def slow(task: Written) -> None:
        done.append(task)
        for other in tasks:
            write(other)

    done: list[Written] = []
    rounds.run_round(slow, tasks, share, "test")
    assert done == tasks[:1]


def test_array_tasks_with_other_settings_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first, second = Parallel(1, "", 0, 2), Parallel(1, "", 1, 2)
    stage, tasks = opened(tmp_path, first, radius=3)
    write(tasks[1])
    _, others = opened(tmp_path, second, radius=6)
    assert clock.now >= rounds.PATIENCE and not others[1].output.exists()
    with pytest.raises(ConfigError, match="opened with other settings meanwhile: give all array tasks the same options"):
        rounds.run_round(write, tasks, first, "test")
    write(tasks[1])  # one that was just being written
    assert not others[1].output.exists()
    with pytest.raises(ConfigError, match="other settings"):
        rounds.run_shared(stage, dict)
    assert not stage.done


def test_array_tasks_open_a_stage_one_after_the_other_where_the_first_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    opened(tmp_path, Parallel(), radius=3)
    times = {}
    for index in (3, 1):
        clock.now = 0.0
        opened(tmp_path, Parallel(1, "", index, 4), radius=10 + index)
        times[index] = clock.now
    assert times[1] < times[3] < 2 * rounds.PATIENCE


def test_the_last_one_to_finish_a_stage_finds_no_files_and_no_problem(tmp_path: Path) -> None:
    stage, tasks = opened(tmp_path, Parallel(1, "", 0, 2))
    write(tasks[0])
    half = stage.folder / "parts-7-of-another-number"
    half.mkdir()

    def finished_by_another() -> dict[str, Any]:
        stage.finish({})
        raise ValueError("need at least one array to concatenate")

    rounds.run_shared(stage, finished_by_another)
    assert sorted(path.name for path in stage.folder.iterdir()) == ["done.json", "settings.json", "sums.json"]
    other, _ = opened(tmp_path / "other", Parallel())
    with pytest.raises(ValueError, match="real"):
        rounds.run_shared(other, lambda: (_ for _ in ()).throw(ValueError("real")))
