"""The callback that long computations report their progress to, and what is known of the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (stage, batches done, total batches)."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


class Advance:
    """How far the present stage is. Callable as `Progress`; another thread may read it."""

    def __init__(self) -> None:
        self._stage = ""
        self._first = (0.0, 0)
        self._last = (0.0, 0, 0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes that `done` of `total` of `stage` are done."""
        now = time.monotonic()
        if stage != self._stage or done < self._last[1] or total != self._last[2]:  # another one, or the same for other data
            self._stage, self._first = stage, (now, done)
        self._last = (now, done, total)

    def facts(self) -> tuple[int, int, float | None]:
        """Returns (done, total, seconds left); the last is None until two calls of a stage have come."""
        (began, before), (now, done, total) = self._first, self._last
        left = (now - began) / (done - before) * (total - done) if done > before else None
        return done, total, left


class LogLines:
    """Prints a line about the present stage every INTERVAL seconds, for logs. Callable as `Progress`."""

    INTERVAL = 60.0

    def __init__(self) -> None:
        self._advance, self._next = Advance(), time.monotonic() + self.INTERVAL

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Notes that `done` of `total` of `stage` are done."""
        self._advance(stage, done, total)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.INTERVAL
            left = self._advance.facts()[2]
            rest = "" if left is None else f", {spoken(left)} left"
            print(f"{stage}: {done:,} of {total:,}{rest}", file=sys.stderr, flush=True)


def spoken(seconds: float) -> str:
    """A time that is left, in words: "12 s", "3 min", "2 h 5 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
