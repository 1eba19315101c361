"""Rounds of tasks of a reduction: all tasks of a round are done, whoever runs them, before the next round begins.

Each task has an `output`, a file that appears when the task is done. The array tasks of a job run the same reduction: each
runs its share of a round, waits for the others, and takes over what nobody has finished for a while, so that a task that died or
has not started holds nobody up. What lies between rounds is computed by every one of them, from the same files.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError, DataError
from data_tools.execution.executors import Parallel, run_tasks
from data_tools.execution.stage_folder import DONE_NAME, SETTINGS_NAME, StageFolder, digest_of, open_stage, read_object
from data_tools.files.storage import save_atomically

ROWS_PER_PARTITION = 8_000_000
PATIENCE = 300.0
"""Seconds in which no task of a round is finished, after which an array task takes over those that are not its own."""
_POLL = 0.5
_APART = 5.0
"""Seconds between the array tasks that open a stage in the place of the first one."""


class PartTask(Protocol):
    """A task that is done when `output` exists."""

    @property
    def output(self) -> Path:
        """The file that the task writes, atomically, in a folder of the stage's folder."""


Task = TypeVar("Task", bound=PartTask)


def num_partitions(asked: int, rows: int, parallel: Parallel) -> int:
    """Partitions of a reduction over `rows`: as many as asked, or one for each 8 million rows and for each array task.

    Raises ConfigError for a negative number.
    """
    if asked < 0:
        raise ConfigError(f"partitions is {asked}: give 0 (chosen by the number of rows) or more")
    return asked or max(1 + (rows - 1) // ROWS_PER_PARTITION, parallel.num_tasks)


def parts_folder(stage: StageFolder, num_parts: int) -> Path:
    """Folder of the parts of a stage: those of other settings, or of another number of partitions, are elsewhere."""
    return stage.folder / f"parts-{num_parts}-{stage.digest}"


def run_round(function: Callable[[Task], object], tasks: Sequence[Task], parallel: Parallel, label: str) -> None:
    """Applies `function` to those of `tasks` that are not done, and returns when all are.

    Raises as `run_tasks`, and ConfigError if another process has opened the stage with other settings.
    """
    once = partial(_unless_done, function)
    _check_stage(tasks, parallel)
    run_tasks(once, tasks, parallel, label, is_done=is_done)
    changed, before = time.monotonic(), -1
    while parallel.is_share and (missing := [task for task in tasks if not is_done(task)]):
        _check_stage(tasks, parallel)
        if time.monotonic() - changed > PATIENCE:
            once(missing[parallel.task_index % len(missing)])
            continue  # with the next one at once: what is finished now need not be a sign of the others
        if len(missing) != before:
            changed, before = time.monotonic(), len(missing)
        time.sleep(_POLL)


def _unless_done(function: Callable[[Task], object], task: Task) -> None:
    """Runs a task, unless another array task has taken it over meanwhile."""
    if not is_done(task):
        function(task)


class FinishedElsewhereError(Exception):
    """Another array task has finished the stage, and removed its parts."""


def _check_stage(tasks: Sequence[PartTask], parallel: Parallel) -> None:
    parts = tasks[0].output.parent
    check_settings(StageFolder(parts.parent, parts.name.rpartition("-")[2]))
    if parallel.is_share and (parts.parent / DONE_NAME).exists():
        raise FinishedElsewhereError


def check_settings(stage: StageFolder) -> None:
    """Raises ConfigError if another process has opened the stage with other settings since."""
    if not _has_settings(stage):
        raise ConfigError(
            f"{stage.folder} was opened with other settings meanwhile: give all array tasks the same options, and run one job "
            "at a time in a work folder"
        )


def _has_settings(stage: StageFolder) -> bool:
    try:
        return bool(read_object(stage.folder, SETTINGS_NAME)["digest"] == stage.digest)
    except (OSError, DataError, LookupError):
        return False


def is_done(task: PartTask) -> bool:
    """True if the task's output exists."""
    return task.output.exists()


def open_reduction(work: Path, name: str, settings: dict[str, Any], parallel: Parallel) -> StageFolder:
    """As `open_stage` for a reduction. Of several array tasks the first one opens it, and the others wait for that."""
    wanted, since = StageFolder(work / name, digest_of(settings)), time.monotonic()
    # One after the other: of two at once, one would remove what the other has just opened.
    while parallel.task_index and time.monotonic() - since < PATIENCE + _APART * parallel.task_index:
        if _has_settings(wanted):
            return wanted
        time.sleep(_POLL)
    return open_stage(work, name, settings, is_map=False)


def run_shared(stage: StageFolder, reduce: Callable[[], dict[str, Any]]) -> None:
    """Finishes `stage` with the summary that `reduce` returns, and removes all parts; does nothing if the stage is finished.

    Another array task may finish the stage first and remove files that this one is about to read: then nothing is left to do.
    """
    if stage.done:
        return
    try:
        summary = reduce()
        check_settings(stage)
        stage.finish(summary)
    except Exception:  # a reader of files that vanish may raise anything
        if not (stage.done and _has_settings(stage)):
            raise
    for parts in stage.folder.glob("parts-*"):
        shutil.rmtree(parts, ignore_errors=True)


def save_part(path: Path, **arrays: NDArray[Any]) -> None:
    """Writes named arrays as one `.npz` file, atomically."""
    save_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def load_part(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays that `save_part` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def mapped(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file, left on disk."""
    array: NDArray[Any] = np.load(path, mmap_mode="r" if os.path.getsize(path) > 128 else None, allow_pickle=False)
    return array
