"""Exit codes of `albef-ds train`, for batch scripts."""

from __future__ import annotations

import signal

FINISHED = 0
DEFECT = 1
"""A defect of ours, with a traceback."""
MISTAKE = 2
"""A user's mistake; one line says which. Starting again does not help."""
BAD_NUMBERS = 4
"""Losses or gradients were not finite `train.bad_steps` times in a row. Starting again does not help."""
NOT_SAVED = 5
"""The last checkpoint could not be written; the one before is whole. Starting again helps once there is room."""
LOST_RANK = 6
"""A rank died, or was late beyond a time limit. Starting again helps."""
TIME_IS_UP = 75
"""The time of `--stop-after` is used up, with a checkpoint. Start again to go on."""
INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C, with a checkpoint."""
PREEMPTED = 128 + signal.SIGTERM
"""SIGTERM, SIGUSR1 or SIGUSR2, with a checkpoint. Start again to go on."""
