"""Tasks for tests of process pools, in a module that workers import quickly; run, it starts a pool that never ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from data_tools.execution.executors import Parallel, run_tasks


def answer_or_die(number: int) -> int:
    """`number`, or the death of this process when it is negative."""
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def answer_or_die_later(task: tuple[int, Path]) -> int:
    """As `answer_or_die`, but death comes when the file `go` is in the folder; `taken` there says that a process has the task."""
    number, folder = task
    if number < 0:
        (folder / "taken").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
    return answer_or_die(number)


def work_for_ever(number: int) -> None:
    """Say so once, then sleep."""
    if number == 0:
        os.write(1, b"working\n")
    time.sleep(3600)


if __name__ == "__main__":
    from tests.data_tools.execution.workers import work_for_ever as task

    run_tasks(task, [0, 1, 2], Parallel(workers=2), "test")
