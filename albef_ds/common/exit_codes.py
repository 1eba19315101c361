"""Exit codes of all commands, for batch scripts. docs/commands.md has the table, slurm/lib.sh repeats two of them."""

from __future__ import annotations

import signal

FINISHED = 0
DEFECT = 1
"""A defect of ours, with a traceback."""
CHECK_FAILED = 1
"""What was to be checked is not as it should be: a curve, a machine, a corpus, a job that was followed."""
MISTAKE = 2
"""A user's mistake; one line says which. Starting again does not help."""
BAD_NODE = 3
"""`preflight`: some nodes, not all, are unfit; they are named."""
BAD_NUMBERS = 4
"""Losses or gradients were not finite `train.bad_steps` times in a row. Starting again does not help."""
NOT_SAVED = 5
"""The last checkpoint could not be written; the one before is whole. Starting again helps once there is room."""
LOST_RANK = 6
"""A rank died, or was late beyond a time limit. Starting again helps."""
STOP = 70
"""`cli/slurm/job.py` to the batch script: do not start this job again (sysexits' EX_SOFTWARE)."""
REQUEUE = 75
"""`cli/slurm/job.py` to the batch script: start this job again (sysexits' EX_TEMPFAIL)."""
TIME_IS_UP = 75
"""The time of this start is used up, with a checkpoint. Start again to go on."""
INTERRUPTED = 128 + signal.SIGINT
"""Ctrl-C, with a checkpoint."""
BROKEN_PIPE = 128 + signal.SIGPIPE
"""Who read the output has gone, such as `head`."""
PREEMPTED = 128 + signal.SIGTERM
"""SIGTERM, SIGUSR1 or SIGUSR2, with a checkpoint. Start again to go on."""
