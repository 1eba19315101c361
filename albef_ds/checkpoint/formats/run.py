"""Reads a run's checkpoint folder as a whole model, on a single rank: tensors in it are unsharded.

The files are first checked against the checkpoint's list of sizes and hashes; optimizer state is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint.complete import DamageError, check_file, read_marker
from albef_ds.checkpoint.find import find_checkpoint
from albef_ds.checkpoint.formats.whole_model import WholeModel, check_complete, shapes_of
from albef_ds.checkpoint.names import BASE, MOMENTUM, QUEUE
from albef_ds.checkpoint.snapshot import read_state
from albef_ds.checkpoint.tensor_files.lazy import LazyTensor
from albef_ds.checkpoint.tensor_files.opening import open_tensors
from albef_ds.common.errors import WeightsError
from albef_ds.common.run_files import (
    CHECKPOINTS_FOLDER,
    CONFIG_NAME,
    MARKER_NAME,
    MOMENTUM_NAME,
    QUEUE_NAME,
    STATE_NAME,
    STUDENT_NAME,
)
from albef_ds.config import files
from albef_ds.config.schema import RunConfig

_USED = (STATE_NAME, CONFIG_NAME, STUDENT_NAME, MOMENTUM_NAME, QUEUE_NAME)


def find(path: Path) -> Path | None:
    """`path` if it is a checkpoint folder, the newest complete checkpoint if it is a run, None for any other folder.

    Raises WeightsError if a run has no complete checkpoint.
    """
    if any((path / name).is_file() for name in (MARKER_NAME, STATE_NAME)):
        return path
    if (path / CHECKPOINTS_FOLDER).is_dir():
        folder = find_checkpoint(path, "auto")
        if folder is None:
            raise WeightsError(f"{path} is a run without a complete checkpoint: give another, or wait for its first save")
        return folder
    return None


def from_checkpoint(folder: Path) -> WholeModel:
    """The model in a checkpoint folder. Raises WeightsError if it is damaged or does not fit its configuration."""
    try:
        entries = read_marker(folder)
        problem = next((found for name in _USED if name in entries and (found := check_file(folder, name, entries[name]))), "")
    except DamageError as error:
        problem = str(error)
    if problem:
        raise WeightsError(f"{folder} is damaged: {problem}: take another checkpoint")
    config, state = files.load(folder / CONFIG_NAME), read_state(folder)
    tensors = dict(open_tensors(folder / STUDENT_NAME).tensors)
    if MOMENTUM_NAME in entries:
        tensors |= _momentum(config, tensors, open_tensors(folder / MOMENTUM_NAME).tensors)
    if QUEUE_NAME in entries:
        numbers = state["outside"]["queue"]["_extra_state"]
        tensors |= {QUEUE + name: tensor for name, tensor in open_tensors(folder / QUEUE_NAME).tensors.items()}
        tensors |= {QUEUE + name: LazyTensor.of(torch.tensor(int(numbers[name]))) for name in ("pointer", "filled")}
    model = WholeModel(config, tensors, (_origin(config, state),))
    check_complete(model, str(folder))
    return model


def _momentum(config: RunConfig, student: dict[str, LazyTensor], stored: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The momentum copy; frozen parts are not averaged and not stored, but are the student's."""
    copy = {}
    for name in shapes_of(config).momentum:
        inner = name.removeprefix(MOMENTUM)
        copy[name] = stored[inner] if inner in stored else student[BASE + inner]
    return copy


def _origin(config: RunConfig, state: dict[str, Any]) -> dict[str, Any]:
    starts = {name: getattr(config.init, name) for name in ("visual_encoder", "text_encoder", "checkpoint")}
    return {
        "what": "trained with albef_ds",
        "kind": str(config.task.kind),
        "recipe": config.recipe,
        "step": state.get("step"),
        "samples": state.get("samples"),
        "saved": state.get("saved"),
        **{f"started from {name}": Path(value).name for name, value in starts.items() if value},
    }
