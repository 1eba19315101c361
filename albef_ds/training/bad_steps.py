"""Steps whose numbers went wrong: what is written about them, and when there are too many in a row.

Whether a step is skipped is the engine's decision, the same on all ranks; this module counts and reports.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from albef_ds.common import comm
from albef_ds.common.run_files import BAD_STEPS_NAME
from albef_ds.data.batch import Batch

_WINDOW, _ENOUGH = 100, 20
_NORMAL = 1.4826
"""Median absolute deviation to standard deviation, for normal noise."""


class SpikeMonitor:
    """Compares each loss with the median of the last 100; the deviation is the median absolute one, scaled.

    Args:
        factor: deviations above the median that make a spike; 0: never.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._part = 1.0

    def spike(self, loss: float, part: float = 1.0) -> str:
        """Take note of `loss`; what is odd about it, empty if nothing is. Less than a tenth above the median never is.

        `part` of the schedule: a loss with other terms is not compared with those before.
        """
        if part != self._part:
            self._losses.clear()
            self._part = part
        known = list(self._losses)
        self._losses.append(loss)
        if not self._factor or len(known) < _ENOUGH:
            return ""
        middle = median(known)
        deviation = _NORMAL * median(abs(value - middle) for value in known)
        if loss <= middle + max(self._factor * deviation, 0.1 * abs(middle)):
            return ""
        return f"loss {loss:.4g} against {middle:.4g} +- {deviation:.2g} of the {len(known)} steps before"


class BadStepLog:
    """Writes `RUN/bad_steps.jsonl`: a line per step that was skipped or spiked, with the keys of its samples on every rank."""

    def __init__(self, output: Path) -> None:
        self._path = output / BAD_STEPS_NAME

    def write(self, kind: str, step: int, micro_batches: Sequence[Batch], losses: Mapping[str, float], grad_norm: float) -> bool:
        """Record a step; all ranks call it together. Returns whether a loss was not finite on any rank.

        A line that cannot be written is not worth ending the run for: the log line about the step names this file only.
        """
        own = {
            "losses": {name: value if math.isfinite(value) else str(value) for name, value in losses.items()},
            "keys": [key for batch in micro_batches for key in batch.keys],
            "positions": [position for batch in micro_batches for position in batch.positions.tolist()],
        }
        ranks: list[dict[str, Any]] = comm.all_gather_objects(own)
        norm = grad_norm if math.isfinite(grad_norm) else str(grad_norm)
        record = {"kind": kind, "step": step, "time": round(time.time(), 3), "grad_norm": norm, "ranks": ranks}
        if comm.rank() == 0:
            try:
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record, ensure_ascii=False) + "\n")
            except OSError:
                pass
        return any(isinstance(value, str) for entry in ranks for value in entry["losses"].values())
