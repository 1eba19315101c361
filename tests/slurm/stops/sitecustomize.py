"""Makes the ranks of a Slurm job stop themselves (SIGSTOP) before certain steps, so that tests disturb runs at known points.

Python imports this file at start-up where its folder is in PYTHONPATH, which `Submitter.pretrain(stops=...)` arranges.
ALBEF_TEST_STOPS names a folder; a rank that is about to fetch step N stops if the folder has a file `N` and it has not stopped
there before. A test lets it go on with SIGCONT.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path


def _stop_at_steps(folder: Path, rank: str) -> None:
    from albef_ds.training.trainer import Trainer  # start-up: only ranks need it

    fetch = Trainer._fetch

    def stopping(trainer: Trainer) -> object:
        step = folder / str(trainer.progress.step + 1)
        mark = folder / f"{step.name}.{rank}"
        if step.exists() and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return fetch(trainer)

    Trainer._fetch = stopping  # type: ignore[method-assign,assignment]


if "RANK" in os.environ and "ALBEF_TEST_STOPS" in os.environ:
    _stop_at_steps(Path(os.environ["ALBEF_TEST_STOPS"]), os.environ["RANK"])
