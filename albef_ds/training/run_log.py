"""Writes the log of a run: a progress bar or plain lines, `metrics.jsonl`, TensorBoard, other trackers.

There is one `RunLogger` per process, and only the enabled one (rank 0) writes. It reports the numbers it is given and times the
steps; it gathers nothing from other ranks. Losses should be Python floats, and given only on steps that are written, because
converting a GPU tensor waits for the device.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from albef_ds.common.run_files import METRICS_NAME, TENSORBOARD_FOLDER
from albef_ds.config.describe import flatten
from albef_ds.training.metric_names import is_chance, is_measured, is_size
from albef_ds.training.trackers.processes import TrackerProcess, close_all
from albef_ds.training.trackers.system import png_of, system_figures

DATA_WAIT = "data_wait"
"""Key in `values` of the seconds that the step waited for its batch; logged as a share of the time, `data_wait_share`."""
TOKENS = "tokens"
"""Key in `values` of all ranks' text tokens, padding left out, since the last written step; logged per second."""
LEAST_SECONDS = "least_seconds"
"""Key in `values` of the seconds per sample at the devices' peak; logged as a share of the time, `model_flops_utilisation`."""

_SHORT = {
    "learning_rate": "lr",
    "grad_norm": "grad",
    "temperature": "temp",
    "images_per_second": "img/s",
    "tokens_per_second": "tok/s",
    "model_flops_utilisation": "mfu",
    "data_wait_share": "wait",
}


class RunLogger:
    """Writes the numbers of one run. Steps that are not written only count for speed and data-wait share.

    `metrics.jsonl` holds one JSON object per line: `{"kind": "step", "step", "time", ...}` for training and
    `{"kind": KIND, ...}` for evaluations. A resumed run appends; repeated steps occur twice, and the later one counts.
    A number that is not finite becomes null, and its name is listed under `nonfinite`.

    Args:
        output: folder of the run, created if missing.
        enabled: True on the process that writes (rank 0).
        progress: draw a bar if standard error is a terminal; plain lines otherwise.
        total_steps: last step of the run, for percentage and time left; None if unknown.
        board: write for TensorBoard.
        trackers: get the same numbers and images; `close` ends them.
    """

    def __init__(
        self,
        output: Path,
        enabled: bool,
        progress: bool,
        total_steps: int | None,
        *,
        board: bool = True,
        trackers: Sequence[TrackerProcess] = (),
    ) -> None:
        self._enabled, self._total_steps = enabled, total_steps
        self._write_board, self._trackers = board, trackers
        self._draw = progress and sys.stderr.isatty()
        self._bar: Any = None
        self._board: Any = None
        self._first: dict[str, tuple[int, float] | None] = {}  # of numbers that have been the same so far; None: it has changed
        self._last_step, self._lost = 0, False
        self._window_steps, self._window_samples, self._window_wait = 0, 0, 0.0
        self._window_start = time.perf_counter()
        if not enabled:
            return
        output.mkdir(parents=True, exist_ok=True)
        self._board_folder = output / TENSORBOARD_FOLDER
        metrics = output / METRICS_NAME
        _cut_torn_line(metrics)
        self._file = open(metrics, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (open for the whole run)

    def step(self, step: int, values: Mapping[str, float], *, samples: int, write: bool, total_steps: int | None = None) -> None:
        """Reports optimizer step `step` (from 1), which took `samples` pairs over all ranks.

        `values` are the step's numbers by name (`loss`, `loss_itc`, `alpha`, `temperature`, `learning_rate`,
        `grad_norm`, `data_wait` in seconds, ...). With `write` they are shown and recorded beside `images_per_second`,
        `tokens_per_second`, `model_flops_utilisation` and `data_wait_share`, over the steps since the last written one.
        `total_steps` updates the expected last step, which changes under a wall-clock budget.
        """
        if not self._enabled:
            return
        self._total_steps = total_steps or self._total_steps
        self._last_step = step
        self._window_steps += 1
        self._window_samples += samples
        self._window_wait += values.get(DATA_WAIT, 0.0)
        self._advance_bar(step)
        if not write:
            return
        elapsed = max(time.perf_counter() - self._window_start, 1e-9)
        record = {name: value for name, value in values.items() if name not in (DATA_WAIT, TOKENS, LEAST_SECONDS)}
        record["images_per_second"] = self._window_samples / elapsed
        if TOKENS in values:
            record["tokens_per_second"] = values[TOKENS] / elapsed
        if LEAST_SECONDS in values:
            record["model_flops_utilisation"] = values[LEAST_SECONDS] * self._window_samples / elapsed
        if DATA_WAIT in values:
            record["data_wait_share"] = min(1.0, self._window_wait / elapsed)
        seconds_per_step = elapsed / self._window_steps
        self._record("step", step, record)
        if self._bar is not None:
            self._bar.set_postfix_str(_format(record))
        else:
            self._line(f"{self._position(step, seconds_per_step)}  {_format(record)}")
        self._window_steps, self._window_samples, self._window_wait = 0, 0, 0.0
        self._window_start = time.perf_counter()

    def event(self, kind: str, values: Mapping[str, Any], shown: Collection[str] | None = None) -> None:
        """Records something other than a step, such as an evaluation, at the last step; `values` may be nested.

        The printed line contains only the entries in `shown`, by default all.
        """
        if not self._enabled:
            return
        started = time.perf_counter()
        record = dict(values)
        self._record(kind, self._last_step, record)
        visible = {name: value for name, value in record.items() if shown is None or name in shown}
        self._line(f"{kind} at step {self._last_step}: {_format(flatten(visible))}")
        self._window_start += time.perf_counter() - started

    def images(self, kind: str, images: Mapping[str, Any]) -> None:
        """Writes `images`, uint8 arrays (H, W, 3) by name, to TensorBoard at the last step. The caller pauses for its time."""
        if not self._enabled:
            return
        with contextlib.suppress(OSError):  # `_record` reports a full disk
            for name, image in images.items() if self._write_board else ():
                self._open_board(self._last_step).add_image(f"{kind}/{name}", image, self._last_step, dataformats="HWC")
        for tracker in self._trackers:
            for name, image in images.items():
                tracker.image(self._last_step, f"{kind}/{name}", png_of(image))

    def message(self, text: str) -> None:
        """Prints `text` as a line, above the bar if there is one."""
        if self._enabled:
            self._line(text)

    def pause(self, seconds: float) -> None:
        """Leaves `seconds` (an evaluation, a checkpoint) out of the speed of the current window."""
        self._window_start += seconds

    def close(self) -> None:
        """Finishes the bar and closes the files. The logger must not be used afterwards; a second call does nothing."""
        if not self._enabled:
            return
        self._enabled = False
        if self._bar is not None:
            self._bar.close()
        with contextlib.suppress(OSError):
            if self._board is not None:
                self._board.close()
        with contextlib.suppress(OSError):
            self._file.close()
        close_all(self._trackers)

    def _record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        nonfinite: list[str] = []
        clean = _finite(values, "", nonfinite)
        record: dict[str, Any] = {"kind": kind, "step": step, "time": round(time.time(), 3), **clean}
        if nonfinite:
            record["nonfinite"] = nonfinite
            self._line(f"warning: not finite at step {step}: {', '.join(nonfinite)}")
        numbers = {
            name if kind == "step" else f"{kind}/{name}": value
            for name, value in flatten(values).items()
            if isinstance(value, (int, float))
        }
        for tracker in self._trackers:
            tracker.scalars(step, numbers | (system_figures() if kind == "step" else {}))
        try:
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in numbers.items() if self._write_board else ():
                for at, number in self._for_board(kind, name, step, value):
                    self._open_board(at).add_scalar(name, number, at)
        except OSError as error:  # a full disk must not end the run
            if not self._lost:
                self._line(f"warning: {METRICS_NAME} cannot be written ({error.strerror}): numbers are missing from step {step}")
            self._lost = True

    def _for_board(self, kind: str, name: str, step: int, value: float) -> list[tuple[int, float]]:
        """Returns what TensorBoard gets: nothing of a number until it changes, unless every step measures it, and no sizes."""
        if kind != "step":
            return [] if is_size(name) or is_chance(name) else [(step, value)]
        if is_measured(name):
            return [(step, value)]
        first = self._first.setdefault(name, (step, value))
        if first is None:
            return [(step, value)]
        if first[1] == value:
            return []
        self._first[name] = None
        return [first, (step, value)]

    def _open_board(self, step: int) -> Any:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # start-up time, and only the writing rank needs it

            # A resumed run repeats the steps after its checkpoint: purge_step makes TensorBoard drop the old ones.
            self._board = SummaryWriter(str(self._board_folder), purge_step=step)
        return self._board

    def _advance_bar(self, step: int) -> None:
        if not self._draw:
            return
        if self._bar is None:
            from tqdm import tqdm  # start-up time

            self._bar = tqdm(total=self._total_steps, initial=step - 1, unit="step", dynamic_ncols=True, smoothing=0.05)
        self._bar.total = self._total_steps
        self._bar.update(step - self._bar.n)

    def _position(self, step: int, seconds_per_step: float) -> str:
        if self._total_steps is None:
            return f"step {step}"
        left = timedelta(seconds=round(max(0, self._total_steps - step) * seconds_per_step))
        return f"step {step}/{self._total_steps} ({step / self._total_steps:.1%}, {left} left)"

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)


def _format(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        text = f"{value:{'.0%' if name.endswith('_share') else '.4g'}}" if isinstance(value, float) else str(value)
        parts.append(f"{_SHORT.get(name, name.removeprefix('loss_'))} {text}")
    return "  ".join(parts)


def _finite(value: Any, name: str, nonfinite: list[str]) -> Any:
    """Returns `value` with None for every number that is not finite, and adds their dotted names to `nonfinite`."""
    if isinstance(value, Mapping):
        return {key: _finite(item, f"{name}.{key}" if name else key, nonfinite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, f"{name}.{place}", nonfinite) for place, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(name)
        return None
    return value


def _cut_torn_line(path: Path) -> None:
    """Removes half a record that a killed run may have left at the end, so that every line is a JSON object."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
