"""The attempts of one job, and whether there should be another.

A job is started anew after every preemption, time limit, node failure or crash; each start is an attempt. The history is
a file beside the job's logs, one JSON object per line: `{"event": "begin", ...}` when an attempt starts and
`{"event": "end", ...}` when it could still say how it ended. This module decides; it talks to no scheduler.
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
"""finished: the planned length is done. stopped: saved on a signal or before the time limit. interrupted: by Ctrl-C.
mistake: what was given cannot be used. bad node: preflight named one. killed: the attempt left no word."""

Action = Literal["go", "requeue", "finish", "stop"]

WITHOUT_PROGRESS = 3
"""Attempts in a row that may fail with no new checkpoint between them."""


@dataclass(frozen=True)
class Attempt:
    """One start of the job: the newest checkpoint's step when it began, and how it ended."""

    restart: int
    nodes: str
    step: int
    outcome: Outcome = "killed"
    reason: str = ""
    end_step: int | None = None


@dataclass(frozen=True)
class Decision:
    """What the batch script does next, and the line that it logs."""

    action: Action
    reason: str


class History:
    """The attempts written in `path` so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, restart: int, nodes: str, step: int) -> None:
        """Note that an attempt starts at the checkpoint of `step`."""
        self._append({"event": "begin", "restart": restart, "nodes": nodes, "step": step})

    def end(self, outcome: Outcome, reason: str, step: int) -> None:
        """Note how the current attempt ended, and the newest checkpoint's step."""
        self._append({"event": "end", "outcome": outcome, "reason": reason, "end_step": step})

    def attempts(self) -> list[Attempt]:
        """All attempts in order; the last one has outcome `killed` until its end is noted.

        Raises:
            MachineError: a line that is no event.
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
                    continue  # a line torn by a crash of the node; its attempt counts as killed
                raise MachineError(
                    f"{self.path} line {number} is no event of a job: move the file away to start counting anew"
                ) from None
        try:
            return [Attempt(**entry) for entry in found]
        except TypeError as error:
            raise MachineError(f"{self.path} is of another version ({error}): move it away to start counting anew") from None

    def _append(self, event: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n") and self.path.stat().st_size > 0
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())


def before(attempts: list[Attempt], max_restarts: int) -> Decision:
    """Whether the next attempt may start, from the `attempts` that ended.

    Slurm starts a job again without asking after a preemption or a node's failure, so the bounds are checked here too.
    """
    if len(attempts) > max_restarts:
        return Decision("stop", f"{max_restarts} restarts are used up: look at the log, then submit again to go on")
    return _loop(attempts) or Decision("go", "")


def after(attempts: list[Attempt], max_restarts: int) -> Decision:
    """What follows the last of `attempts`, whose end has been noted."""
    last = attempts[-1]
    if last.outcome == "finished":
        return Decision("finish", "finished")
    if last.outcome == "interrupted":
        return Decision("stop", "interrupted, not started again")
    if last.outcome == "mistake":
        return Decision("stop", last.reason or "a mistake in what was given")
    bound = before(attempts, max_restarts)
    if bound.action == "stop":
        return bound
    return Decision(
        "requeue", f"{last.outcome}{': ' + last.reason if last.reason else ''}; goes on from step {last.end_step or 0}"
    )


def newest_step(output: Path) -> int:
    """Step of the newest whole checkpoint folder in a run's `output`; 0 if there is none."""
    return max(step_folders(output / CHECKPOINTS_FOLDER), default=0)


def _loop(attempts: list[Attempt]) -> Decision | None:
    """A stop when the last attempts all failed where the one before had."""
    last = attempts[-WITHOUT_PROGRESS:]
    if len(last) < WITHOUT_PROGRESS or any(attempt.outcome not in ("crashed", "killed") for attempt in last):
        return None
    if any(attempt.end_step is not None and attempt.end_step > attempt.step for attempt in last):
        return None
    if any(later.step > earlier.step for earlier, later in pairwise(last)):
        return None
    reason = next((attempt.reason for attempt in reversed(last) if attempt.reason), "the ranks were killed")
    return Decision("stop", f"crash loop: {WITHOUT_PROGRESS} attempts in a row ended at step {last[-1].step}, last by: {reason}")
