"""The model in a checkpoint, for those who do not go on training it."""

from __future__ import annotations

from pathlib import Path

import torch

from albef_ds.checkpoint.snapshot import check_fit, parameter_shape
from albef_ds.checkpoint.tensor_files.tensor_file import TensorFile
from albef_ds.common.run_files import CONFIG_NAME, MOMENTUM_NAME, STUDENT_NAME
from albef_ds.config import files
from albef_ds.config.schema import RunConfig
from albef_ds.models.parameters import WHOLE, ParameterAccess
from albef_ds.tasks.base import Task


def load_config(folder: Path) -> RunConfig:
    """The configuration that a checkpoint was written with."""
    return files.load(folder / CONFIG_NAME)


def load_task_weights(task: Task, folder: Path, access: ParameterAccess = WHOLE) -> str:
    """Fill the student, and the momentum model if one is attached, from a checkpoint folder; returns a line for the log.

    Raises:
        UserError: missing, damaged, or another model's weights.
    """
    stored = TensorFile(folder / STUDENT_NAME)
    own = dict(task.named_parameters())
    check_fit(stored, {name: parameter_shape(parameter) for name, parameter in own.items()})
    with torch.no_grad():
        for name, parameter in own.items():
            access.write(parameter, stored[name])
    if task.has_momentum:
        task.momentum.load_full_state_dict(TensorFile(folder / MOMENTUM_NAME))
    return f"{len(own)} tensors, 100% of the parameters, from {folder}"
