"""Tasks are shared out whole, and a worker that dies is reported."""

from __future__ import annotations

import pytest

from albef_ds.common.errors import MachineError
from data_tools.execution.executors import Parallel, run_tasks
from tests.data_tools.execution.workers import answer_or_die


def test_a_dead_worker_is_reported_not_waited_for() -> None:
    with pytest.raises(MachineError, match="a worker of test died"):
        run_tasks(answer_or_die, [1, -1, 1], Parallel(workers=2), "test")


def test_every_task_belongs_to_one_share() -> None:
    shares = [run_tasks(abs, list(range(10)), Parallel(1, "", index, 3), "test") for index in range(3)]
    assert sorted(number for share in shares for number in share) == list(range(10))
