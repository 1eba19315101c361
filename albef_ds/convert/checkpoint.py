"""A run's checkpoint folder as a whole model, through the checkpoint's own reader. Needs no rank but this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from albef_ds.checkpoint import FOLDER, STATE_NAME, find_checkpoint, load_config
from albef_ds.config import files
from albef_ds.convert.model import WholeModel, check_complete, shapes_of
from albef_ds.convert.names import MOMENTUM, QUEUE
from albef_ds.convert.tensors import LazyTensor, open_tensors
from albef_ds.engine import read_torch_file
from albef_ds.errors import ConfigError


def find(path: Path) -> Path | None:
    """The checkpoint folder that `path` is, or the newest whole one of the run that it is; None for any other folder."""
    if (path / STATE_NAME).is_file():
        return path
    if (path / FOLDER).is_dir():
        folder = find_checkpoint(path, "auto")
        if folder is None:
            raise ConfigError(f"{path} is a run without a whole checkpoint: give another, or wait for its first save")
        return folder
    return None


def from_checkpoint(folder: Path) -> WholeModel:
    """The model in a checkpoint folder. Raises `ConfigError` where it is damaged or does not fit its configuration."""
    config = load_config(folder)
    state = files.read_json_object(folder / STATE_NAME)
    shapes = shapes_of(config)
    tensors = dict(open_tensors(folder / "student.safetensors").tensors)
    momentum = folder / "momentum.safetensors"
    if momentum.is_file():
        # Tied tensors stand there under each name.
        stored = {MOMENTUM + name: tensor for name, tensor in open_tensors(momentum).tensors.items()}
        tensors |= {name: tensor for name, tensor in stored.items() if name in shapes.momentum}
    if (folder / "queue.pt").is_file():
        tensors |= _queue(read_torch_file(folder / "queue.pt"))
    model = WholeModel(config, tensors, (_origin(config.recipe, config.init, state, str(config.task.kind)),))
    check_complete(model, str(folder))
    return model


def _queue(state: dict[str, Any]) -> dict[str, LazyTensor]:
    extra = state["_extra_state"]
    numbers = {name: torch.tensor(extra[name]) for name in ("pointer", "filled")}
    buffers = {name: tensor for name, tensor in state.items() if name != "_extra_state"}
    return {QUEUE + name: LazyTensor.of(tensor) for name, tensor in {**buffers, **numbers}.items()}


def _origin(recipe: str, init: Any, state: dict[str, Any], kind: str) -> dict[str, Any]:
    starts = {name: getattr(init, name) for name in ("visual_encoder", "text_encoder", "checkpoint")}
    return {
        "what": "trained with albef_ds",
        "kind": kind,
        "recipe": recipe,
        "step": state.get("step"),
        "samples": state.get("samples"),
        "saved": state.get("saved"),
        **{f"started from {name}": Path(value).name for name, value in starts.items() if value},
    }
