"""Threads that compute for requests: calls wait in line, and end with an error when the line or the wait is too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


class BusyError(Exception):
    """The line is full."""


class LateError(Exception):
    """The time limit of a call has passed."""


class Worker:
    """A line of calls and the threads that take them. Is used on one event loop.

    Args:
        threads: calls that run at once.
        longest: calls that may wait or run at once.
        seconds: time limit of a call, its wait included.
    """

    def __init__(self, threads: int, longest: int, seconds: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="serve")
        self._longest, self._seconds, self._taken = longest, seconds, 0

    async def run(self, call: Callable[[Callable[[], None]], _T]) -> _T:
        """Returns `call(check)`. A long call calls `check` now and then, which raises `LateError` after the time limit.

        Raises:
            BusyError: too many calls wait.
            LateError: the result did not come in time.
        """
        if self._taken >= self._longest:
            raise BusyError
        end = time.monotonic() + self._seconds

        def check() -> None:
            if time.monotonic() > end:
                raise LateError

        def work() -> _T:
            check()
            return call(check)

        self._taken += 1
        loop = asyncio.get_running_loop()
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._seconds)
        except (TimeoutError, asyncio.TimeoutError):
            raise LateError from None  # waiting for it has cancelled it: a call that has not begun never does

    def close(self) -> None:
        """Forgets the calls that wait."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _done(self) -> None:
        self._taken -= 1
