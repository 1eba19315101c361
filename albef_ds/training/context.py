"""Shared state of the parts of a run, and the record of an optimizer step that they receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from albef_ds.checkpoint.saver import Saver
from albef_ds.checkpoint.training_progress import TrainingProgress
from albef_ds.config.schema import RunConfig
from albef_ds.data.batch import Batch
from albef_ds.engine.interface import Engine, StepResult
from albef_ds.training.run_data import RunData
from albef_ds.training.run_log import RunLogger
from albef_ds.training.watchdog import Watchdog


@dataclass(frozen=True)
class RunContext:
    """One run on this rank, created by `training/start.py`."""

    config: RunConfig
    output: Path
    precision: str
    """fp32, bf16 or fp16."""
    engine: Engine
    """Holds the task."""
    data: RunData
    progress: TrainingProgress
    """Position of the run; the trainer advances it."""
    saver: Saver
    logger: RunLogger
    watchdog: Watchdog


@dataclass(frozen=True)
class Step:
    """Inputs and results of an optimizer step on this rank."""

    micro_batches: list[Batch]
    schedule: Mapping[str, float]
    learning_rate: float
    result: StepResult
    waited: float
    """Seconds that the step waited for its data."""
