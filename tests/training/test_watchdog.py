"""The watchdog names late and dead ranks, and one failure ends all: real threads and store, several ranks in one process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from albef_ds.common.exit_codes import LOST_RANK
from albef_ds.training.watchdog import Phase, Watchdog

HOST = socket.gethostname()


class Rank:
    """A watchdog that records the exit instead of ending the process."""

    def __init__(self, store: Any, rank: int, world_size: int, limits: dict[Phase, float], silence: float) -> None:
        self.left = threading.Event()
        self.code = 0
        self.dog = Watchdog(store, rank, world_size, limits, silence, self._leave)
        self.dog.start()

    def _leave(self, code: int) -> None:
        self.code = code
        self.left.set()

    def die(self) -> None:
        """The process is gone: no more signs of life, and no farewell."""
        self.dog._closing.set()
        self.dog._thread.join()


Start = Callable[..., list[Rank]]


@pytest.fixture
def start() -> Iterator[Start]:
    ranks: list[Rank] = []

    def begin(world_size: int, limits: dict[Phase, float] | None = None, silence: float = 0.0) -> list[Rank]:
        store = dist.HashStore()
        ranks.extend(Rank(store, rank, world_size, limits or {}, silence) for rank in range(world_size))
        return ranks

    yield begin
    for rank in ranks:
        rank.dog.close()


def test_the_rank_that_the_others_wait_for_is_named_with_its_host_and_place(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    ranks = start(3, {Phase.AGREEMENT: 1.5})
    ranks[1].dog.at(Phase.DATA, 5)
    for rank in (0, 2):
        ranks[rank].dog.at(Phase.AGREEMENT, 5)
    assert all(rank.left.wait(60) and rank.code == LOST_RANK for rank in ranks)
    [line] = capfd.readouterr().err.splitlines()
    assert "agreement of step 5 takes longer than its limit of 2 s" in line
    assert f"rank 1 on {HOST} late, for" in line and "in data of step 5" in line


def test_a_rank_without_a_sign_of_life_is_named(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    ranks = start(3, silence=2.0)
    threading.Event().wait(1.0)  # until every rank has been heard of
    ranks[2].die()
    assert ranks[0].left.wait(60) and ranks[1].left.wait(60)
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("albef-ds [rank 0]: error: ") and f"rank 2 on {HOST} sent no heartbeat for 2 s" in line


def test_a_rank_that_is_lost_at_once_is_named(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    ranks = start(3, silence=2.0)
    ranks[2].die()  # before its thread's first heartbeat
    assert ranks[0].left.wait(60)
    assert f"rank 2 on {HOST} sent no heartbeat for 2 s" in capfd.readouterr().err


def test_a_rank_that_nobody_has_heard_of_is_named_when_a_collective_fails(capfd: pytest.CaptureFixture[str]) -> None:
    dog = Watchdog(dist.HashStore(), 0, 2, {}, 0.3, lambda code: None)
    dog.start()
    with patch("albef_ds.training.watchdog._GRACE", 0.1):
        assert dog.report_loss("connection reset") == LOST_RANK
    dog.close()
    assert "rank 1 died" in capfd.readouterr().err


def test_a_rank_that_has_ended_is_not_missed(start: Start) -> None:
    ranks = start(2, silence=1.0)
    threading.Event().wait(0.7)
    ranks[1].dog.close()
    assert not ranks[0].left.wait(3.0)


def test_one_failure_ends_all_with_its_code_and_is_said_once(start: Start) -> None:
    ranks = start(3)
    assert ranks[1].dog.first_to_fail(2)
    assert not ranks[2].dog.first_to_fail(2)
    ranks[1].dog.wait_until_heard()
    assert ranks[0].left.wait(60) and ranks[0].code == 2
    assert ranks[2].left.wait(60) and ranks[2].code == 2


def test_one_process_has_limits_too(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    left = threading.Event()
    dog = Watchdog(None, 0, 1, {Phase.DATA: 0.6}, 0.0, lambda code: left.set())
    dog.start()
    dog.at(Phase.DATA, 3)
    assert left.wait(60)
    dog.close()
    assert "data of step 3 takes longer than its limit of 1 s" in capfd.readouterr().err
