"""Finds the checkpoint to resume from, and refuses a damaged one before any of it is used."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from albef_ds.checkpoint.complete import DamageError, check_file, read_marker
from albef_ds.checkpoint.remote import fetch, remote_steps
from albef_ds.common import comm
from albef_ds.common.errors import DataError, UserError, WeightsError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, MARKER_NAME, STATE_NAME, complete_steps, step_folder
from albef_ds.common.urls import is_url

AUTO = "auto"


def print_once(text: str) -> None:
    """Prints a line to standard error, on rank 0."""
    if comm.rank() == 0:
        print(text, file=sys.stderr, flush=True)


def find_checkpoint(output: Path, resume: str, say: Callable[[str], None] = print_once, store: str = "") -> Path | None:
    """The checkpoint folder `resume`; for `auto`, the newest undamaged one in the run folder `output`, or None without any.

    Where the folder has no undamaged one, `auto` fetches the newest one below the URL `store` into it.

    Every byte is checked against the marker; the files are split over the ranks, and all ranks get the same result. `say` gets
    a line for each damaged folder that is skipped.

    Raises:
        WeightsError: the named folder is not a checkpoint or is damaged; with `auto`, all checkpoints are damaged.
        DataError: the store cannot be read.
    """
    if resume != AUTO:
        folder = Path(resume)
        if is_url(resume):
            raise WeightsError(
                f"{resume} is a URL: resume with auto and train.checkpoint_store, or copy the folder to a local disk"
            )
        if not any((folder / name).is_file() for name in (MARKER_NAME, STATE_NAME)):
            wanted = f"RUN/{CHECKPOINTS_FOLDER}/step-N"
            raise WeightsError(f"{folder} is not a checkpoint folder (no {MARKER_NAME}): give {wanted}, or {AUTO}")
        if problem := problem_of(folder):
            raise WeightsError(f"{folder} is damaged: {problem}: take another checkpoint, or {AUTO}")
        return folder
    # Rank 0 lists: a network file system may show each node another list.
    root = output / CHECKPOINTS_FOLDER
    steps: list[int] = comm.broadcast_object(complete_steps(root)[::-1])
    for step, before in zip(steps, [*steps[1:], None], strict=False):
        folder = root / step_folder(step)
        problem = problem_of(folder)
        if not problem:
            return folder
        following = "there is none before it" if before is None else f"trying the one before it, {step_folder(before)}"
        say(f"{folder} is damaged ({problem}): {following}")
    if store and (found := _from_store(root, store, say)):
        return found
    if steps:
        raise WeightsError(f"all {len(steps)} checkpoints in {root} are damaged: restore a backup, or start in another folder")
    return None


def _from_store(root: Path, store: str, say: Callable[[str], None]) -> Path | None:
    """Fetches the newest undamaged checkpoint below `store`; None if there is none. Raises DataError as `fetch`."""
    steps: list[int] = _on_first_rank(partial(remote_steps, store))
    for step in reversed(steps):
        say(f"fetching {step_folder(step)} from {store}")
        folder: Path = _on_first_rank(partial(fetch, store, step, root))
        problem = problem_of(folder)
        if not problem:
            return folder
        say(f"{store}/{step_folder(step)} is damaged ({problem})")
        _on_first_rank(partial(shutil.rmtree, folder))
    return None


def _on_first_rank(function: Callable[[], Any]) -> Any:
    """The result of `function` on rank 0, on every rank. Its problem raises DataError on every rank."""
    found, problem = None, ""
    if comm.rank() == 0:
        try:
            found = function()
        except (UserError, OSError) as error:
            problem = str(error)
    found, problem = comm.broadcast_object((found, problem))
    if problem:
        raise DataError(problem)
    return found


def problem_of(folder: Path) -> str:
    """Describes the damage of a checkpoint, or ''; all ranks call it together and get the same result."""
    problem = ""
    try:
        entries = read_marker(folder)
        own = sorted(entries)[comm.rank() :: comm.world_size()]
        # Two at once: one is hashed while the other one is read.
        with ThreadPoolExecutor(2) as threads:
            problems = threads.map(lambda name: check_file(folder, name, entries[name]), own)
            problem = next(filter(None, problems), "")
        if STATE_NAME not in entries:
            problem = f"{MARKER_NAME} does not list {STATE_NAME}"
    except DamageError as error:
        problem = str(error)
    return next((found for found in comm.all_gather_objects(problem) if found), "")
