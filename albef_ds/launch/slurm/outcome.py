"""Records how an attempt ended, in one small file that the first rank to know writes.

Exit codes cannot carry this: torchrun and srun replace every failure by their own code, and when a rank exits with a code other
than 0 the others are killed, perhaps before they have saved. So a rank that stopped on request writes it here and exits with 0.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from albef_ds.common import exit_codes
from albef_ds.common.atomic_files import scratch_path
from albef_ds.launch.slurm.attempts import Outcome

VARIABLE = "ALBEF_OUTCOME"
"""Environment variable with the path of the file."""

_OUTCOMES: dict[int, Outcome] = {
    exit_codes.FINISHED: "finished",
    exit_codes.MISTAKE: "mistake",
    exit_codes.BAD_NUMBERS: "mistake",
    exit_codes.TIME_IS_UP: "stopped",
    exit_codes.PREEMPTED: "stopped",
    exit_codes.INTERRUPTED: "interrupted",
}


def outcome_of(code: int) -> Outcome:
    """Returns the outcome for an exit code of `albef-ds train`."""
    return _OUTCOMES.get(code, "crashed")


def write(path: Path, outcome: Outcome, reason: str) -> None:
    """Writes the file unless another rank has: later failures follow from the first one."""
    with scratch_path(path) as temporary, contextlib.suppress(FileExistsError):
        temporary.write_text(json.dumps({"outcome": outcome, "reason": reason}) + "\n", encoding="utf-8")
        os.link(temporary, path)


def read(path: Path, launcher_code: int) -> tuple[Outcome, str]:
    """Returns outcome and reason; if no rank wrote the file, they are derived from the launcher's exit code."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        outcome, reason = entry["outcome"], str(entry["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "crashed", f"the ranks were killed (srun's exit code {launcher_code})"
    return outcome, reason
