"""The line of calls: order, its longest length, and its time limit, without a test of real time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from albef_ds.inference.serving.worker import BusyError, LateError, Worker


def test_a_full_line_refuses_and_is_free_again_afterwards() -> None:
    async def main() -> list[object]:
        worker, go = Worker(1, 2, 60.0), threading.Event()
        waiting = [asyncio.ensure_future(worker.run(lambda check, n=n: (go.wait(), n)[1])) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await worker.run(lambda check: 3)
        go.set()
        done = await asyncio.gather(*waiting)
        while True:  # the last one leaves the line just after its answer
            try:
                return [*done, await worker.run(lambda check: 4)]
            except BusyError:
                await asyncio.sleep(0.001)

    assert asyncio.run(main()) == [0, 1, 4]


def test_a_call_that_waited_too_long_never_begins_and_a_running_one_is_told() -> None:
    began, told, go = [], threading.Event(), threading.Event()

    def long(check: Callable[[], None]) -> None:
        go.wait()
        try:
            check()
        except LateError:
            told.set()
            raise

    async def main() -> None:
        worker = Worker(1, 5, 0.05)
        first = asyncio.ensure_future(worker.run(long))
        second = asyncio.ensure_future(worker.run(lambda check: began.append("second")))
        for call in (first, second):
            with pytest.raises(LateError):
                await call
        go.set()
        assert await asyncio.to_thread(told.wait, 60)
        worker.close()

    asyncio.run(main())
    assert began == []


def test_what_a_call_raises_is_raised() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await Worker(1, 1, 60.0).run(lambda check: 1 // 0)

    asyncio.run(main())
