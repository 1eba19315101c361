"""Records the attempts of one job and decides whether to start another one. Does not communicate with the scheduler.

A job is started again after every preemption, time limit, node failure or crash; each start is an attempt. The history is a file
beside the job's logs, one JSON object per line: `{"event": "begin", ...}` when an attempt starts and `{"event": "end", ...}` when
it ends, unless it was killed before it could write it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from albef_ds.common.errors import MachineError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, step_folders

Outcome = Literal["finished", "stopped", "interrupted", "mistake", "crashed", "bad node", "killed"]
"""finished: the planned length is reached. stopped: saved on a signal or before the time limit. interrupted: by Ctrl-C.
mistake: arguments or data cannot be used. bad node: preflight named one. killed: the attempt did not record its end."""

Action = Literal["go", "requeue", "finish", "stop"]

WITHOUT_PROGRESS = 3
"""Attempts in a row that may fail without a new checkpoint."""


@dataclass(frozen=True)
class Attempt:
    """One start of the job: the newest checkpoint's step at its start, and its outcome."""

    restart: int
    nodes: str
    step: int
    outcome: Outcome = "killed"
    reason: str = ""
    end_step: int | None = None


@dataclass(frozen=True)
class Decision:
    """Next action of the batch script, and the line that it logs."""

    action: Action
    reason: str


class History:
    """Reads and writes the attempts in the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, restart: int, nodes: str, step: int) -> None:
        """Records that an attempt starts at the checkpoint of `step`."""
        self._append({"event": "begin", "restart": restart, "nodes": nodes, "step": step})

    def end(self, outcome: Outcome, reason: str, step: int) -> None:
        """Records how the current attempt ended, and the newest checkpoint's step."""
        self._append({"event": "end", "outcome": outcome, "reason": reason, "end_step": step})

    def attempts(self) -> list[Attempt]:
        """Returns all attempts in order; the last one has outcome `killed` until its end is recorded.

        Raises:
            MachineError: a line is not an event.
        """
        found: list[dict[str, Any]] = []
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                event = json.loads(line)
                kind = event.pop("event")
                if kind == "begin":
                    found.append({**asdict(Attempt(0, "", 0)), **event})
                else:
                    found[-1].update(event)
            except (json.JSONDecodeError, AttributeError, KeyError, IndexError):
                if number == len(lines):
                    continue  # a crash of the node truncated the line; its attempt counts as killed
                problem = f"{self.path} line {number} is not an event of a job"
                raise MachineError(f"{problem}: move the file away to restart the count") from None
        try:
            return [Attempt(**entry) for entry in found]
        except TypeError as error:
            raise MachineError(f"{self.path} has another version ({error}): move it away to restart the count") from None

    def _append(self, event: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size > 0
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())


def before(attempts: list[Attempt], max_restarts: int) -> Decision:
    """Decides from the `attempts` that ended whether the next one may start.

    Slurm starts a job again by itself after a preemption or a node failure, so the limits are checked here too.
    """
    if len(attempts) > max_restarts:
        return Decision("stop", f"{max_restarts} restarts are used up: check the log, then submit again to continue")
    return _loop(attempts) or Decision("go", "")


def after(attempts: list[Attempt], max_restarts: int) -> Decision:
    """Decides what follows the last of `attempts`, whose end has been recorded."""
    last = attempts[-1]
    if last.outcome == "finished":
        return Decision("finish", "finished")
    if last.outcome == "interrupted":
        return Decision("stop", "interrupted, not started again")
    if last.outcome == "mistake":
        return Decision("stop", last.reason or "a mistake in the arguments")
    bound = before(attempts, max_restarts)
    if bound.action == "stop":
        return bound
    reason = f": {last.reason}" if last.reason else ""
    return Decision("requeue", f"{last.outcome}{reason}; continues from step {last.end_step or 0}")


def newest_step(output: Path) -> int:
    """Returns the step of the newest complete checkpoint folder in a run's `output`, 0 if there is none."""
    return max(step_folders(output / CHECKPOINTS_FOLDER), default=0)


def _loop(attempts: list[Attempt]) -> Decision | None:
    """Returns a stop if the last attempts all failed without a new checkpoint, else None."""
    last = attempts[-WITHOUT_PROGRESS:]
    if len(last) < WITHOUT_PROGRESS or any(attempt.outcome not in ("crashed", "killed") for attempt in last):
        return None
    if any(attempt.end_step is not None and attempt.end_step > attempt.step for attempt in last):
        return None
    if any(later.step > earlier.step for earlier, later in pairwise(last)):
        return None
    reason = next((attempt.reason for attempt in reversed(last) if attempt.reason), "the ranks were killed")
    return Decision("stop", f"crash loop: {WITHOUT_PROGRESS} attempts in a row ended at step {last[-1].step}, last by: {reason}")
