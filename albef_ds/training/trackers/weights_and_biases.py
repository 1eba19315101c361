"""Weights & Biases. Offline with WANDB_MODE=offline, by its own means: `wandb sync` sends the folders later."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import wandb
from PIL import Image

from albef_ds.training.trackers.interface import TrackedRun, Tracker


def open_run(run: TrackedRun) -> Tracker:
    """Opens the run with the same id, or begins it. Offline each start has a folder of its own, and a sync joins them by id."""
    return WandbTracker(
        wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            resume="allow",
            settings=wandb.Settings(console="off"),
        )
    )


class WandbTracker:
    """An open run. Steps are given with each call, since an offline run does not know those of earlier starts."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records numbers."""
        self._run.log(dict(values), step=step)

    def image(self, step: int, name: str, png: bytes) -> None:
        """Records an image."""
        with Image.open(io.BytesIO(png)) as image:
            self._run.log({name: wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Waits until everything is written or sent."""
        self._run.finish()
