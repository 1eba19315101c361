"""Tasks for tests of process pools, in a module that workers import quickly."""

from __future__ import annotations

import os
import signal


def answer_or_die(number: int) -> int:
    """`number`, or the death of this process when it is negative."""
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number
