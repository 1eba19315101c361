"""Requests to stop, by signals and the time limit of this invocation. The run then finishes its step, saves and exits."""

from __future__ import annotations

import re
import signal
import time
from contextlib import AbstractContextManager
from types import FrameType

from albef_ds.common import exit_codes
from albef_ds.common.errors import ConfigError
from albef_ds.common.processes import stop_signals_to

TIME_LIMIT = 1000
"""Number of the time limit, beside the numbers of signals."""
_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def parse_duration(text: str) -> float:
    """Returns the seconds of a duration such as 3h50m, 90s, 1d or 45m. Raises `ConfigError` for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"{text} is not a duration: write it like 3h50m, 45m or 90s")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class StopRequest:
    """Is set by SIGINT, SIGTERM, SIGUSR1 or SIGUSR2, or after `seconds`; a second SIGINT interrupts immediately.

    `number` is this rank's own request; `agreed` is the one that all ranks have agreed on.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.signal: int | None = None
        self.agreed = 0
        self._deadline = None if seconds is None else time.monotonic() + seconds

    @property
    def number(self) -> int:
        """The signal, `TIME_LIMIT`, or 0."""
        if self.signal is None and self._deadline is not None and time.monotonic() >= self._deadline:
            return TIME_LIMIT
        return self.signal or 0

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def installed(self) -> AbstractContextManager[None]:
        """Returns a context within which signals set the request."""
        return stop_signals_to(self._handle)


def name_of(number: int) -> str:
    """Returns the name of the signal, or `the time limit`."""
    return "the time limit" if number == TIME_LIMIT else signal.Signals(number).name


def code_of(number: int) -> int:
    """Returns the exit code of a run that `number` stopped; 0 for none."""
    known = {0: exit_codes.FINISHED, TIME_LIMIT: exit_codes.TIME_IS_UP, int(signal.SIGINT): exit_codes.INTERRUPTED}
    return known.get(number, exit_codes.PREEMPTED)
