"""Determines the state of a run from its folder alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from albef_ds.common.errors import ConfigError, UserError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, CONFIG_NAME, METRICS_NAME, STATE_NAME, complete_steps, step_folder
from albef_ds.config.files import load, read_json_object
from albef_ds.config.schema import RunConfig
from albef_ds.evaluation.main_metric import main_metric_name
from albef_ds.training.report.metrics_log import MetricsLog

Activity = Literal["running", "finished", "stopped", "broken off"]
"""stopped: there is a checkpoint to continue from. broken off: there is none."""
DEPTH = 4
"""Levels of folders that are searched below the given one."""
_SILENCE = 300.0
"""Seconds without a log line after which a run counts as ended; more if its log lines are further apart."""


@dataclass(frozen=True)
class RunState:
    """Entry of a run in the list of runs."""

    run: str
    recipe: str
    task: str
    state: Activity
    step: int
    total_steps: int | None
    """None if epochs or minutes determine it and nothing has been logged yet."""
    loss: float | None
    images_per_second: float | None
    metric: str | None
    """Name of the main metric of the last evaluation."""
    value: float | None
    checkpoints: int
    last_written: str
    """Local time of the last log line, ISO 8601; empty if there is none."""


def find_runs(root: Path) -> list[Path]:
    """Returns the folders at or below `root` that contain a run, sorted. Raises `ConfigError` if `root` is not a folder."""
    if not root.is_dir():
        raise ConfigError(f"{root} is not a folder: give one with runs in it")
    return sorted(_walk(root, DEPTH))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if is_run(folder):
        yield folder
    elif depth:
        try:
            inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        except OSError:  # an unreadable folder of another user
            return
        for path in inside:
            yield from _walk(path, depth - 1)


def is_run(folder: Path) -> bool:
    """Returns whether a run was started in `folder`."""
    return (folder / CONFIG_NAME).is_file() and ((folder / METRICS_NAME).is_file() or (folder / CHECKPOINTS_FOLDER).is_dir())


def require_run(folder: Path) -> None:
    """Raises `ConfigError` if `folder` does not contain a run."""
    if not is_run(folder):
        raise ConfigError(f"{folder} holds no run ({CONFIG_NAME} and {METRICS_NAME}): give a folder that `albef-ds runs` lists")


def read_log(folder: Path) -> MetricsLog:
    """Returns the log of the run in `folder`, empty if nothing has been logged. Raises `DataError` if it is damaged."""
    path = folder / METRICS_NAME
    return MetricsLog.read(path) if path.exists() else MetricsLog([])


def state_of(folder: Path, now: float | None = None) -> RunState:
    """Returns the state of the run in `folder` at `now`, seconds since the epoch (default: the current time).

    Raises:
        UserError: the configuration or the log cannot be read.
    """
    config, history = load(folder / CONFIG_NAME), read_log(folder)
    saved = complete_steps(folder / CHECKPOINTS_FOLDER)
    newest = _state_file(folder, saved)
    step = max([*(record["step"] for record in history.steps[-1:]), *saved[-1:], 0])
    evaluation = history.evaluations[-1] if history.evaluations else {}
    name = main_metric_name(config, evaluation)
    times = [float(record["time"]) for record in history.steps[-2:] if "time" in record]
    pause = 5 * (times[1] - times[0]) if len(times) == 2 else 0.0
    last = max([float(record.get("time", 0.0)) for record in (*history.steps[-1:], *history.evaluations[-1:])], default=0.0)
    state: Activity
    if _done(config, history, step, newest):
        state = "finished"
    elif last and (time.time() if now is None else now) - last < max(_SILENCE, pause):
        state = "running"
    else:
        state = "stopped" if saved else "broken off"
    return RunState(
        run=str(folder),
        recipe=config.recipe,
        task=config.task.kind,
        state=state,
        step=step,
        total_steps=_total_steps(config, history),
        loss=history.last("loss"),
        images_per_second=history.last("images_per_second"),
        metric=name,
        value=float(evaluation[name]) if name is not None and isinstance(evaluation[name], (int, float)) else None,
        checkpoints=len(saved),
        last_written=time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(last)) if last else "",
    )


def _state_file(folder: Path, saved: list[int]) -> dict[str, Any]:
    if not saved:
        return {}
    try:
        return read_json_object(folder / CHECKPOINTS_FOLDER / step_folder(saved[-1]) / STATE_NAME)
    except UserError:  # `--resume` reports a damaged checkpoint
        return {}


def _done(config: RunConfig, history: MetricsLog, step: int, newest: dict[str, Any]) -> bool:
    """Returns whether the planned length is reached and its checkpoint exists."""
    if not newest or newest.get("step") != step:
        return False
    train = config.train
    by_steps = bool(train.max_steps) and step >= train.max_steps
    by_clock = bool(train.max_minutes) and float(newest.get("seconds", 0.0)) >= 60.0 * train.max_minutes
    # The last log line may be up to log_every steps before the end.
    epoch, per_step = history.last("epoch"), _epochs_per_step(history)
    by_epochs = epoch is not None and epoch + per_step * (step - history.steps[-1]["step"] + 1) > train.epochs > 0
    return by_steps or by_clock or by_epochs


def _epochs_per_step(history: MetricsLog) -> float:
    epoch = history.last("epoch")
    return epoch / history.steps[-1]["step"] if epoch and history.steps[-1]["step"] else 0.0


def _total_steps(config: RunConfig, history: MetricsLog) -> int | None:
    limits = [config.train.max_steps] if config.train.max_steps else []
    if config.train.epochs and (per_step := _epochs_per_step(history)):
        limits.append(round(config.train.epochs / per_step))
    return min(limits) if limits else None
