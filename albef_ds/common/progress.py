"""The callback that long computations report their progress to."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (stage, batches done, total batches)."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""
