"""Signals as requests: a run that is told to stop finishes its step, saves and leaves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Set once SIGINT, SIGTERM, SIGUSR1 or SIGUSR2 arrived; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Listen within the block."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
