"""`python -m albef_ds.cli.slurm.rank COMMAND ARGS`: one rank of a job, as torchrun starts it.

Runs the subcommand and records how it ended (`outcome.py`, which explains why being stopped is not a failure).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from albef_ds.cli.main import main as command_line
from albef_ds.cli.slurm.node import LEFT_TO_THE_RANKS
from albef_ds.common import exit_codes
from albef_ds.launch.slurm import outcome
from albef_ds.launch.slurm.attempts import Outcome


def main(argv: list[str]) -> int:
    """Runs the subcommand; returns 0 if it finished or stopped as requested, else its exit code."""
    if argv[0] != "train":
        for (
            number
        ) in LEFT_TO_THE_RANKS:  # ignored since `node.py`; only training saves on a signal, so other commands end at once
            signal.signal(number, signal.SIG_DFL)
    try:
        code = command_line(argv)
    except BaseException as error:
        _record("crashed", f"{type(error).__name__}: {error}")
        raise
    how = outcome.outcome_of(code)
    if code == exit_codes.BAD_NUMBERS:
        _record(how, "losses or gradients are not finite, see the log of the node")
    elif how == "mistake":
        _record(how, "a user's mistake, see the log of the node")
    elif how == "crashed" or _rank() == 0:
        _record(how, "" if how == "finished" else f"exit code {code}")
    return 0 if how == "stopped" else code


def _record(how: Outcome, reason: str) -> None:
    if path := os.environ.get(outcome.VARIABLE):
        outcome.write(Path(path), how, " ".join(f"rank {_rank()}: {reason}".split()) if reason else "")


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
