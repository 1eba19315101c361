"""Records skipped steps and loss spikes. Too many skipped steps in a row end the run or roll it back.

The engine decides whether a step is skipped, the same on all ranks.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

from albef_ds.common import comm
from albef_ds.common.run_files import BAD_STEPS_NAME
from albef_ds.training.agreement import Agreement
from albef_ds.training.checkpointing import Checkpointing
from albef_ds.training.context import RunContext, Step

_WINDOW, _ENOUGH = 100, 20
_NORMAL = 1.4826
"""Factor from median absolute deviation to standard deviation, for normal noise."""


class SpikeMonitor:
    """Reports a loss more than `factor` deviations above the median of the last 100 (0: never).

    The deviation is the scaled median absolute deviation.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._terms: frozenset[str] = frozenset()

    def spike(self, loss: float, terms: Iterable[str] = ()) -> str:
        """Records `loss` and returns a description of the spike, or ''. A loss within 10 % of the median is never a spike.

        `terms` are the names of the losses in the sum. Sums of different losses are not compared.
        """
        if self._terms != (named := frozenset(terms)):
            self._losses.clear()
            self._terms = named
        known = list(self._losses)
        self._losses.append(loss)
        if not self._factor or len(known) < _ENOUGH:
            return ""
        middle = median(known)
        deviation = _NORMAL * median(abs(value - middle) for value in known)
        if loss <= middle + max(self._factor * deviation, 0.1 * abs(middle)):
            return ""
        return f"loss {loss:.4g} against {middle:.4g} +- {deviation:.2g} of the {len(known)} steps before"


class BadSteps:
    """Reports bad steps and reacts to them. All ranks call every method together.

    Writes a line to `RUN/bad_steps.jsonl` per step that was skipped or spiked, with the keys of its samples on every rank.
    """

    def __init__(self, run: RunContext, checkpoints: Checkpointing) -> None:
        self.too_many = False
        """True if the run must end because of bad steps."""
        self._run, self._checkpoints = run, checkpoints
        self._path = run.output / BAD_STEPS_NAME
        self._spikes = SpikeMonitor(run.config.train.spike)
        self._last: Step | None = None
        self._in_a_row = 0

    @property
    def last_loss(self) -> float:
        """This rank's loss of the last step; -inf if it is not finite or there was no step."""
        loss = self._run.engine.task.total(self._last.result.losses) if self._last else math.nan
        return loss if math.isfinite(loss) else -math.inf

    def before_step(self, agreed: Agreement) -> None:
        """Looks for a spike in the loss of the last step, the largest over the ranks."""
        step, self._last = self._last, None
        if step is None or not math.isfinite(agreed.loss):
            return
        if spike := self._spikes.spike(agreed.loss, step.result.losses):
            self._record("spike", step)
            self._run.logger.message(f"step {self._run.progress.step}: {spike}; its samples are in {self._path}")

    def after_step(self, step: Step) -> None:
        """Reports a skipped step; after too many in a row rolls back or sets `too_many`."""
        self._last = step
        if not step.result.skipped:
            self._in_a_row = 0
            return
        train, number = self._run.config.train, self._run.progress.step
        lost = self._record("skipped", step)
        self._run.logger.message(
            f"step {number}: {'losses' if lost else 'gradients'} are not finite, optimizer, momentum and queue were not updated; "
            f"its samples are in {self._path}"
        )
        if self._run.precision == "fp16" and not lost:  # the loss scale is adapting; the engine raises at its minimum
            return
        self._in_a_row += 1
        if self._in_a_row < train.bad_steps:
            return
        if train.on_bad_steps == "rollback" and self._checkpoints.roll_back(self._in_a_row):
            self._in_a_row = 0
            return
        self.too_many = True
        self._run.logger.message(
            f"{self._in_a_row} steps in a row were not finite: look at their samples in {self._path}, lower "
            "optim.learning_rate, or set train.on_bad_steps=rollback"
        )

    def _record(self, kind: str, step: Step) -> bool:
        """Writes a line about the step and returns whether a loss was not finite on any rank.

        A failure to write the line does not end the run: the step is reported in the log too.
        """
        own = {
            "losses": {name: _json_number(value) for name, value in step.result.losses.items()},
            "keys": [key for batch in step.micro_batches for key in batch.keys],
            "positions": [position for batch in step.micro_batches for position in batch.positions.tolist()],
        }
        ranks: list[dict[str, Any]] = comm.all_gather_objects(own)
        norm, number = step.result.grad_norm, self._run.progress.step
        record = {"kind": kind, "step": number, "time": round(time.time(), 3), "grad_norm": _json_number(norm), "ranks": ranks}
        if comm.rank() == 0:
            with contextlib.suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return any(isinstance(value, str) for entry in ranks for value in entry["losses"].values())


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
