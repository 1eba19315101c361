"""Keeps Python's garbage collector out of the steps: it collects on all ranks at the same step.

Otherwise each rank collects when its own count of objects says so, and every other rank waits for it in the next collective.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


class GarbageCollection:
    """Collects after every `every` steps of a run; 0 leaves the time to Python."""

    def __init__(self, every: int) -> None:
        self._every = every

    @contextlib.contextmanager
    def controlled(self) -> Iterator[None]:
        """Within the block Python does not collect by itself, and what exists before it is never looked at."""
        if not self._every:
            yield
            return
        was_enabled = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            yield
        finally:
            gc.unfreeze()
            if was_enabled:
                gc.enable()

    def after_step(self, number: int) -> None:
        """Collects if it is due after step `number`, which is the same on all ranks."""
        if self._every and number % self._every == 0:
            gc.collect()
