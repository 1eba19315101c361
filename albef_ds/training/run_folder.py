"""Prepares the folder of a run so that a new run never mixes with an old one."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from albef_ds.checkpoint.find import AUTO
from albef_ds.checkpoint.snapshot import read_state
from albef_ds.common import comm
from albef_ds.common.errors import MachineError
from albef_ds.common.run_files import (
    BAD_STEPS_NAME,
    CHECKPOINTS_FOLDER,
    CONFIG_NAME,
    METRICS_NAME,
    SCORES_NAME,
    STEP_PREFIX,
    TENSORBOARD_FOLDER,
    TRACKERS_FOLDER,
    complete_steps,
    step_folder,
)
from albef_ds.config import files
from albef_ds.config.schema import RunConfig


def is_used(output: Path) -> bool:
    """Returns whether `output` contains logged numbers or checkpoints of a run."""
    metrics = output / METRICS_NAME
    return (metrics.is_file() and metrics.stat().st_size > 0) or any((output / CHECKPOINTS_FOLDER).glob(f"{STEP_PREFIX}*"))


def abandon(output: Path) -> None:
    """Removes a folder that `claim` created if the run ended before its first step."""
    if is_used(output):
        return
    with contextlib.suppress(OSError):  # other files stay, and the folder with them
        (output / METRICS_NAME).unlink(missing_ok=True)
        (output / CHECKPOINTS_FOLDER).rmdir()
        (output / CONFIG_NAME).unlink(missing_ok=True)
        output.rmdir()


def claim_together(config: RunConfig, resume: str | None, checkpoint: Path | None, *, overwrite: bool) -> list[str]:
    """Claims the run's folder and writes config.json on rank 0. All ranks call it and get the result.

    Raises:
        MachineError: the folder contains another run or cannot be written.
    """
    output, problem, lines = Path(config.output), "", list[str]()
    if comm.rank() == 0:
        try:
            lines = claim(output, resume, checkpoint, overwrite=overwrite)
            files.save(config, output / CONFIG_NAME)
        except OSError as error:
            taken = isinstance(error, FileExistsError) and error.errno is None
            problem = str(error) if taken else f"output {output} cannot be written ({error}): give another folder"
    problem = comm.broadcast_object(problem)
    if problem:
        raise MachineError(problem)
    return lines


def claim(output: Path, resume: str | None, checkpoint: Path | None, *, overwrite: bool) -> list[str]:
    """Prepares `output` for a run and returns lines for the log. Only rank 0 calls it.

    `checkpoint` is the folder for the user's `resume`, None for a run from the start. `overwrite` deletes an earlier run.

    Raises:
        FileExistsError: the folder contains a run that this one does not continue; the text has the fix.
        OSError: the folder cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    own = checkpoint is not None and checkpoint.resolve().parent == (output / CHECKPOINTS_FOLDER).resolve()
    if is_used(output) and not own and resume != AUTO:
        if not overwrite:
            raise FileExistsError(f"output {output} holds a run already: resume it, give another folder, or overwrite it")
        for name in (CHECKPOINTS_FOLDER, TENSORBOARD_FOLDER, TRACKERS_FOLDER):
            if (output / name).exists():
                shutil.rmtree(output / name)
        for name in (METRICS_NAME, BAD_STEPS_NAME):
            (output / name).unlink(missing_ok=True)
        lines.append(f"deleted the earlier run in {output}, as requested")
    (output / CHECKPOINTS_FOLDER).mkdir(exist_ok=True)
    if own and resume != AUTO and checkpoint is not None:
        lines += set_aside(output / CHECKPOINTS_FOLDER, int(read_state(checkpoint)["step"]))
    return lines


def set_aside(root: Path, step: int) -> list[str]:
    """Renames the checkpoints after `step`, to which the run goes back, so that resuming automatically does not take them."""
    lines = []
    for later in complete_steps(root):
        if later > step:
            aside = root / f"abandoned-{step_folder(later)}"
            if aside.exists():
                shutil.rmtree(aside)
            (root / step_folder(later)).rename(aside)
            lines.append(f"{root / step_folder(later)} is after the step to which this run goes back: renamed to {aside.name}")
    if lines:
        (root / SCORES_NAME).unlink(missing_ok=True)
    return lines
