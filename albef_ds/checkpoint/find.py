"""Finding the checkpoint to go on from, and refusing a damaged one before any of it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from albef_ds.checkpoint.complete import DamageError, check_file, read_marker
from albef_ds.common import comm
from albef_ds.common.errors import WeightsError
from albef_ds.common.run_files import CHECKPOINTS_FOLDER, MARKER_NAME, STATE_NAME, complete_steps, step_folder

AUTO = "auto"


def find_checkpoint(output: Path, resume: str, say: Callable[[str], None] = lambda _: None) -> Path | None:
    """The folder that `resume` names; with `auto` the newest undamaged one in `output`, or None where there is none.

    Every byte is checked against the marker; the ranks share the files among themselves and all get the same answer.

    Args:
        output: the run's folder.
        resume: `auto` or a checkpoint folder.
        say: told about each damaged folder that is passed over.

    Raises:
        WeightsError: a named folder that is no checkpoint or damaged; with `auto`, checkpoints of which all are damaged.
    """
    if resume != AUTO:
        folder = Path(resume)
        if not any((folder / name).is_file() for name in (MARKER_NAME, STATE_NAME)):
            raise WeightsError(
                f"{folder} is not a checkpoint folder (no {MARKER_NAME}): give RUN/{CHECKPOINTS_FOLDER}/step-N, or {AUTO}"
            )
        if problem := problem_of(folder):
            raise WeightsError(f"{folder} is damaged: {problem}: take another checkpoint, or {AUTO}")
        return folder
    # Rank 0 looks: a network file system may show another list to each node.
    root = output / CHECKPOINTS_FOLDER
    steps: list[int] = comm.broadcast_object(complete_steps(root)[::-1])
    for step in steps:
        folder = root / step_folder(step)
        problem = problem_of(folder)
        if not problem:
            return folder
        say(f"{folder} is damaged ({problem}): trying the one before it")
    if steps:
        raise WeightsError(
            f"all {len(steps)} checkpoints in {root} are damaged: restore one from a backup, or start anew in another folder"
        )
    return None


def problem_of(folder: Path) -> str:
    """What is wrong with a checkpoint, empty if nothing is; all ranks call it together and get the same answer."""
    problem = ""
    try:
        entries = read_marker(folder)
        own = sorted(entries)[comm.rank() :: comm.world_size()]
        problem = next((found for name in own if (found := check_file(folder, name, entries[name]))), "")
        if STATE_NAME not in entries:
            problem = f"{MARKER_NAME} does not list {STATE_NAME}"
    except DamageError as error:
        problem = str(error)
    return next((found for found in comm.all_gather_objects(problem) if found), "")
