"""Tasks are shared out whole, and a worker that dies is reported."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from albef_ds.common.errors import MachineError
from data_tools.execution.executors import Parallel, run_tasks
from tests.data_tools.execution.workers import answer_or_die, answer_or_die_later


def test_a_dead_worker_is_reported_not_waited_for() -> None:
    with pytest.raises(MachineError, match="a worker of test died"):
        run_tasks(answer_or_die, [1, -1, 1], Parallel(workers=2), "test")


@pytest.mark.parametrize("moment", ["before it starts", "before the pool knows it"])
def test_a_worker_that_starts_while_another_dies_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    start = ProcessPoolExecutor._spawn_process  # type: ignore[attr-defined]

    def wait_for_death(pids: Iterable[int]) -> None:
        (tmp_path / "go").touch()
        for pid in pids:
            while Path("/proc", str(pid)).exists():
                time.sleep(0.01)
            time.sleep(0.5)  # the pool's own thread ends the workers that it knows

    def start_slowly(pool: ProcessPoolExecutor) -> None:
        known: Any = pool._processes
        if not known:
            start(pool)
            return
        while not (tmp_path / "taken").exists():  # by the first worker: a second one could take it otherwise
            time.sleep(0.01)
        if moment == "before it starts":
            wait_for_death(known)
            start(pool)
        else:
            pool._processes = {}  # type: ignore[assignment]
            start(pool)
            wait_for_death(known)
            known.update(pool._processes)
            pool._processes = known

    monkeypatch.setattr(ProcessPoolExecutor, "_spawn_process", start_slowly)
    with pytest.raises(MachineError, match="a worker of test died"):
        run_tasks(answer_or_die_later, [(number, tmp_path) for number in (-1, 1, 1)], Parallel(workers=2), "test")


def test_every_task_belongs_to_one_share() -> None:
    shares = [run_tasks(abs, list(range(10)), Parallel(1, "", index, 3), "test") for index in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(10))
