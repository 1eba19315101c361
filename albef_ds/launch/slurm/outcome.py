"""How an attempt ended, told by its ranks: one small file that the first rank to know writes.

Exit codes do not get through: torchrun and srun turn every failure into their own, and a rank that leaves with another
code than 0 has its siblings killed, perhaps before they have saved. So a rank that stopped as asked says so here and
leaves with 0.
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
"""Environment variable that names the file."""

_OUTCOMES: dict[int, Outcome] = {
    exit_codes.FINISHED: "finished",
    exit_codes.MISTAKE: "mistake",
    exit_codes.BAD_NUMBERS: "mistake",
    exit_codes.TIME_IS_UP: "stopped",
    exit_codes.PREEMPTED: "stopped",
    exit_codes.INTERRUPTED: "interrupted",
}


def outcome_of(code: int) -> Outcome:
    """What the exit code of `albef-ds train` stands for."""
    return _OUTCOMES.get(code, "crashed")


def write(path: Path, outcome: Outcome, reason: str) -> None:
    """Write the file unless a rank has done so already: what comes later follows from the first failure."""
    with scratch_path(path) as temporary, contextlib.suppress(FileExistsError):
        temporary.write_text(json.dumps({"outcome": outcome, "reason": reason}) + "\n", encoding="utf-8")
        os.link(temporary, path)


def read(path: Path, launcher_code: int) -> tuple[Outcome, str]:
    """Outcome and reason; where no rank left a word, what the launcher's exit code allows to say."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        outcome, reason = entry["outcome"], str(entry["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "crashed", f"the ranks were killed (srun's exit code {launcher_code})"
    return outcome, reason
