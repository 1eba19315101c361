"""Fills a new run's task with the weights that `config.init` names."""

from __future__ import annotations

from pathlib import Path

from albef_ds.checkpoint.initial.encoders import load_mlm_head, load_text_encoder, load_visual_encoder
from albef_ds.checkpoint.initial.from_checkpoint import load_pretrained, load_pretrained_momentum
from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import (
    RunConfig,
)
from albef_ds.engine.build import parameter_access
from albef_ds.tasks.base import Task
from albef_ds.tasks.pretrain import PretrainTask

SCRATCH = "scratch"


def load_initial_weights(task: Task, config: RunConfig) -> list[str]:
    """Fill the model from `init.checkpoint`, else its encoders from the files of `config.init`; one line per file for the log.

    Raises:
        ConfigError: no file and no `scratch` for an encoder, or a file that does not fit.
    """
    if config.init.checkpoint:
        return [f"weights: {load_pretrained(task, config, parameter_access(config))}"]
    lines = []
    for name, load in (("visual_encoder", load_visual_encoder), ("text_encoder", load_text_encoder)):
        source = getattr(config.init, name)
        if source == SCRATCH:
            lines.append(f"{name}: random weights, as asked for")
        elif not source:
            raise ConfigError(f"init.{name} is not set: give a file of weights, or init.{name}={SCRATCH} for random weights")
        else:
            lines.append(f"{name}: {load(task.model, Path(source), parameter_access(config))}")
    if config.init.text_encoder not in ("", SCRATCH) and isinstance(task, PretrainTask):
        lines.append(f"MLM head: {load_mlm_head(task.mlm_head, Path(config.init.text_encoder), parameter_access(config))}")
    return lines


def load_initial_momentum(task: Task, config: RunConfig) -> list[str]:
    """Fill the attached momentum model from that of `init.checkpoint`; elsewhere it stays equal to the student."""
    if not config.init.checkpoint:
        return []
    return [line for line in [load_pretrained_momentum(task, config)] if line is not None]
