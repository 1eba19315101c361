"""Exit codes of all commands, for batch scripts. docs/commands.md has the table, slurm/lib.sh repeats two of them."""

from __future__ import annotations

import signal

FINISHED = 0
DEFECT = 1
"""A bug of this package, with a traceback."""
CHECK_FAILED = 1
"""The check of a curve, a machine or a corpus failed, or a followed job did not complete."""
MISTAKE = 2
"""A user's mistake, described in one line. Starting again does not help."""
BAD_NODE = 3
"""`preflight` found some nodes, not all, unfit and named them."""
BAD_NUMBERS = 4
"""Losses or gradients were not finite `train.bad_steps` times in a row. Starting again does not help."""
NOT_SAVED = 5
"""The last checkpoint could not be written; the one before is complete. Starting again helps once there is disk space."""
LOST_RANK = 6
"""A rank died or exceeded a time limit. Starting again helps."""
STOP = 70
"""`cli/slurm/job.py` to the batch script: do not start this job again (sysexits' EX_SOFTWARE)."""
REQUEUE = 75
"""`cli/slurm/job.py` to the batch script: start this job again (sysexits' EX_TEMPFAIL)."""
TIME_IS_UP = 75
"""The time limit of this start is reached and a checkpoint saved. Start again to go on."""
INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C; a checkpoint was saved."""
BROKEN_PIPE = 128 + signal.SIGPIPE
"""The reader of the output, such as `head`, closed it."""
PREEMPTED = 128 + signal.SIGTERM
"""SIGTERM, SIGUSR1 or SIGUSR2; a checkpoint was saved. Start again to go on."""
