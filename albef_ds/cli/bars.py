"""Progress of what takes longer than two seconds: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

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
            from tqdm import tqdm  # here: most commands end before there is anything to show

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
