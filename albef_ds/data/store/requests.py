"""Threads that send a process's requests, the most urgent first."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

T = TypeVar("T")

NOW: Final = 0
"""A sample that training waits for."""
SOON: Final = 1
"""A sample of the next batches."""
LATER: Final = 2
"""A part of a whole shard."""


class RequestThreads:
    """`number` daemon threads, which neither keep a process alive nor survive a fork. Started with the first request."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._lock = threading.Lock()
        self._started = False

    def submit(self, urgency: int, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Returns the future result of `function(*arguments)`; its exception is the future's."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:  # the waiting thread raises it
                    future.set_exception(error)

        with self._lock:
            if not self._started:
                self._started = True
                for _ in range(self._number):
                    threading.Thread(target=self._run, daemon=True).start()
        self._waiting.put((urgency, next(self._count), work))
        return future

    def close(self) -> None:
        """Ends the threads after their current requests; what waits is never done."""
        with self._lock:
            if self._started:
                for _ in range(self._number):
                    self._waiting.put((-1, next(self._count), _end))

    def _run(self) -> None:
        while (work := self._waiting.get()[2]) is not _end:
            work()


def _end() -> None:
    """Ends a thread when it comes out of the queue."""
