"""Starts the trackers of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import albef_ds
from albef_ds.common import comm
from albef_ds.common.run_files import TRACKERS_FOLDER
from albef_ds.config.describe import flatten
from albef_ds.config.files import to_dict
from albef_ds.config.schema import RunConfig
from albef_ds.training.trackers.interface import PACKAGES, TrackedRun
from albef_ds.training.trackers.processes import TrackerProcess, run_id

PROJECT = "albef-ds"
"""Project or experiment, where the tracker's own settings name none."""


def start_trackers(config: RunConfig, say: Callable[[str], None], *, resumed: bool) -> list[TrackerProcess]:
    """Starts a process for each tracker of `train.trackers` that needs one. Only rank 0 calls it, in a claimed folder."""
    names = [name for name in config.train.tracker_names if name in PACKAGES]
    if not names:
        return []
    output = Path(config.output)
    folder = output.absolute() / TRACKERS_FOLDER
    settings = {
        name: value if isinstance(value, int | float | str) else str(value) for name, value in flatten(to_dict(config)).items()
    }
    settings |= {
        "albef_ds.version": albef_ds.__version__,
        "albef_ds.ranks": comm.world_size(),
        "albef_ds.lineage": _lineage(config),
    }
    number = run_id(folder / "id")
    runs = [TrackedRun(number, output.resolve().name, PROJECT, folder / name, settings, resumed) for name in names]
    return [TrackerProcess(name, run, say) for name, run in zip(names, runs, strict=True)]


def _lineage(config: RunConfig) -> str:
    """What the weights start from, in words."""
    starts = {name: getattr(config.init, name) for name in ("visual_encoder", "text_encoder", "checkpoint")}
    return ", ".join(f"{name} {value}" for name, value in starts.items() if value) or "random weights"
