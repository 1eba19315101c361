"""Shows progress for work that takes longer than two seconds on a terminal, and a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from albef_ds.common.progress import LogLines, Progress

DELAY = 2.0  # seconds


class Bars:
    """One bar per stage on standard error, from its third second until it ends. Callable as `common.progress.Progress`.

    Where standard error is no terminal, it gets a line every minute (`common.progress.LogLines`).
    """

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None
        self._lines = None if sys.stderr.isatty() else LogLines()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` of `stage` are done."""
        if self._lines is not None:
            self._lines(stage, done, total)
            return
        if stage != self._stage or self._bar is None:
            from tqdm import tqdm  # start-up time: most commands end before a bar is due

            self.close()
            self._stage = stage
            # disable=None: no bar unless standard error is a terminal.
            self._bar = tqdm(total=total, desc=stage, disable=None, delay=DELAY, leave=False, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows `what` and the elapsed time on one line of standard error, from the third second of the block on.

    For one step that cannot be counted; the block must not print.
    """
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show_time, args=(what, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def counting(what: str) -> Iterator[Progress]:
    """`waiting` until the yielded callback is first called, then a bar."""
    bars = Bars()
    with contextlib.ExitStack() as first:
        first.enter_context(waiting(what))

        def progress(stage: str, done: int, total: int) -> None:
            first.close()
            bars(stage, done, total)

        try:
            yield progress
        finally:
            bars.close()


def _show_time(what: str, ended: threading.Event) -> None:
    started, pause = time.monotonic(), DELAY
    while not ended.wait(pause):
        pause = 1.0
        print(f"\r{what} ... {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)
    if pause != DELAY:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
