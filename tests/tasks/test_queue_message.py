"""The features of a step travel while the next one begins: nobody waits for them before the queue is read."""

from __future__ import annotations

from typing import Any

import torch

from albef_ds.common import comm
from albef_ds.config.schema import PretrainConfig
from tests.distributed import run_ranks
from tests.tasks.tiny import random_batch, tiny_task


class _Watched:
    """A message on its way that writes down when somebody waits for it."""

    def __init__(self, work: Any, waited: list[bool]) -> None:
        self._work, self._waited = work, waited

    def wait(self) -> None:
        self._waited.append(True)
        self._work.wait()


def _one_step(gather_negatives: bool) -> dict[str, Any]:
    task = tiny_task(PretrainConfig(queue_size=12, gather_negatives=gather_negatives))
    waited: list[bool] = []
    real = comm.all_gather_single

    def watched(*args: Any, **named: Any) -> Any:
        work = real(*args, **named)
        return _Watched(work, waited) if named.get("async_op") else work

    comm.all_gather_single = watched
    try:
        task(random_batch(3, start=3 * comm.rank()), alpha=0.4)
        during_forward = len(waited)
        task.after_step()
        after_step = len(waited)
        filled = [task.queue.filled, task.queue.filled]
        for step in (1, 2):
            task(random_batch(3, start=6 * step + 3 * comm.rank()), alpha=0.4)
            task.after_step()
    finally:
        comm.all_gather_single = real
    return {"counts": [during_forward, after_step, len(waited)], "filled": filled, "ids": task.queue.image_ids}


def test_features_for_the_queue_are_waited_for_where_it_is_read() -> None:
    first, second = run_ranks(_one_step, 2, False)
    assert first["counts"] == [0, 0, 2] and first["filled"] == [6, 6]
    assert torch.equal(first["ids"], second["ids"])


def test_features_that_all_ranks_exchanged_as_candidates_are_not_sent_again() -> None:
    first, second = run_ranks(_one_step, 2, True)
    forward, after_step, _ = first["counts"]
    assert forward == after_step == 2 and first["filled"] == [6, 6]  # candidates, and which of them were drawn
    assert torch.equal(first["ids"], second["ids"])
