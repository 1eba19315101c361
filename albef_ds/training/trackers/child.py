"""The process of one tracker: `python -m albef_ds.training.trackers.child NAME`, fed with JSON lines on standard input.

The first line describes the run, each further one is {"step", "values"} or {"step", "image", "png"}; the end of the input
ends the run. What goes wrong is on standard error and in the exit code.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from albef_ds.training.trackers.interface import Opener, TrackedRun


def opener(name: str) -> Opener:
    """The function that opens a run of tracker `name`, one of `interface.PACKAGES`."""
    # Optional packages, and only the process of each tracker imports its own.
    if name == "wandb":
        from albef_ds.training.trackers.weights_and_biases import open_run as open_wandb  # optional package

        return open_wandb
    if name == "mlflow":
        from albef_ds.training.trackers.mlflow_runs import open_run as open_mlflow  # optional package

        return open_mlflow
    from albef_ds.training.trackers.trackio_runs import open_run as open_trackio  # optional package

    return open_trackio


def track(open_run: Opener, lines: Iterable[str]) -> None:
    """Opens the run that the first line describes and records the others. A last line that is cut off is left out."""
    rest = iter(lines)
    described = json.loads(next(rest))
    tracker = open_run(TrackedRun(**{**described, "folder": Path(described["folder"])}))
    try:
        for line in rest:
            if not line.endswith("\n"):
                break
            record = json.loads(line)
            if "png" in record:
                tracker.image(record["step"], record["image"], base64.b64decode(record["png"]))
            else:
                tracker.scalars(record["step"], record["values"])
    finally:
        tracker.close()


def main() -> int:
    """Records until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the run, whose end ends the input
    track(opener(sys.argv[1]), sys.stdin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
