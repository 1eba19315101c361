"""Feeds trackers from the training process, which never waits for one: a full line loses records, a broken tracker is left out.

Each tracker is a process, so one that hangs, crashes or fills the memory harms itself alone. `metrics.jsonl` has everything.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from albef_ds.training.trackers.interface import TrackedRun

CLOSE_SECONDS = 30.0
"""Time for all trackers to finish when the run ends."""
_LONGEST = 1000
_LETTERS = 200


class TrackerProcess:
    """One tracker.

    Args:
        name: one of `interface.PACKAGES`.
        run: what is tracked; `run.folder` is created, and `log.txt` in it holds what the tracker prints.
        say: shows a line to the user.
        command: starts the process; by default `child.py`.
    """

    def __init__(self, name: str, run: TrackedRun, say: Callable[[str], None], command: list[str] | None = None) -> None:
        self._name, self._say, self._log = name, say, run.folder / "log.txt"
        self._lines: queue.Queue[str | None] = queue.Queue(_LONGEST)
        self._told, self._lost = False, 0
        run.folder.mkdir(parents=True, exist_ok=True)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command or [sys.executable, "-m", "albef_ds.training.trackers.child", name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C in the terminal is for the run
            )
        assert self._process.stdin is not None
        self._thread = threading.Thread(target=_feed, args=(self._lines, self._process.stdin), daemon=True)
        self._thread.start()
        self._put(json.dumps({**asdict(run), "folder": str(run.folder)}))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Hands numbers over and returns at once."""
        self._put(json.dumps({"step": step, "values": values}))

    def image(self, step: int, name: str, png: bytes) -> None:
        """Hands an image over and returns at once."""
        self._put(json.dumps({"step": step, "image": name, "png": base64.b64encode(png).decode("ascii")}))

    def end(self) -> None:
        """Tells the tracker that nothing more comes; `close` then waits for it."""
        with contextlib.suppress(queue.Full):
            self._lines.put_nowait(None)

    def close(self, end: float) -> None:
        """Waits until the time `end` of the monotonic clock for the tracker to finish, then ends it."""
        self._thread.join(max(0.0, end - time.monotonic()))
        try:
            code = self._process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._tell("did not finish in time and was ended")
            return
        if code:
            self._tell(self._reason())
        elif self._lost:
            self._tell(f"was too slow: {self._lost} records are missing")

    def _put(self, line: str) -> None:
        if self._process.poll():
            self._tell(self._reason())
            return
        try:
            self._lines.put_nowait(line + "\n")
        except queue.Full:
            self._lost += 1

    def _reason(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return f"failed ({lines[-1][:_LETTERS] if lines else f'exit code {self._process.returncode}'})"
        return "failed"

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            self._say(f"warning: the tracker {self._name} {what}; the run goes on, see {self._log}")


def close_all(trackers: Sequence[TrackerProcess], seconds: float = CLOSE_SECONDS) -> None:
    """Ends all trackers, which have `seconds` together."""
    for tracker in trackers:
        tracker.end()
    end = time.monotonic() + seconds
    for tracker in trackers:
        tracker.close(end)


def run_id(path: Path) -> str:
    """The id in the file `path`; a new one, which is written there, if there is none."""
    with contextlib.suppress(OSError):
        if known := path.read_text(encoding="ascii").strip():
            return known
    fresh = secrets.token_hex(4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(fresh + "\n", encoding="ascii")
    return fresh


def _feed(lines: queue.Queue[str | None], pipe: IO[str]) -> None:
    """Writes lines to the process until None; a process that has ended takes no more."""
    with contextlib.suppress(OSError, ValueError):
        while (line := lines.get()) is not None:
            pipe.write(line)
            pipe.flush()
    with contextlib.suppress(OSError, ValueError):
        pipe.close()
