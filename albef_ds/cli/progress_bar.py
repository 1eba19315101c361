"""Progress of what takes longer than two seconds: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

DELAY = 2.0  # seconds


class Bars:
    """A bar per stage on standard error, from the third second of a stage on, gone when it ends.

    Called as `evaluators.dealing.Progress`: (stage, done, total).
    """

    def __init__(self) -> None:
        self._stage = ""
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say that `done` of `total` of `stage` are done."""
        if stage != self._stage or self._bar is None:
            from tqdm import tqdm  # start-up time: most commands end before there is anything to show

            self.close()
            self._stage = stage
            # disable=None: nothing where standard error is no terminal.
            self._bar = tqdm(total=total, desc=stage, disable=None, delay=DELAY, leave=False, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A line on a terminal's standard error, from the third second of the block on: `what` is going on, and for how long.

    For one step that cannot count itself; nothing else may be printed meanwhile. Nothing elsewhere.
    """
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_tell, args=(what, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tell(what: str, ended: threading.Event) -> None:
    started = time.monotonic()
    pause = DELAY
    while not ended.wait(pause):
        pause = 1.0
        print(f"\r{what} ... {time.monotonic() - started:.0f} s", end="", file=sys.stderr, flush=True)
    if pause != DELAY:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
