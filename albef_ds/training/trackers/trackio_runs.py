"""trackio: a SQLite file on this machine, in TRACKIO_DIR or its own folder; no server is started."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import trackio
from PIL import Image

from albef_ds.training.trackers.interface import TrackedRun, Tracker


def open_run(run: TrackedRun) -> Tracker:
    """Goes on in the run of the same name, or begins it; the name carries the run's id, since trackio knows runs by name."""
    opened = trackio.init(
        project=run.project, name=f"{run.name}-{run.id}", config=dict(run.settings), resume="allow", embed=False
    )
    return TrackioTracker(opened)


class TrackioTracker:
    """An open run."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records numbers."""
        trackio.log(dict(values), step=step)

    def image(self, step: int, name: str, png: bytes) -> None:
        """Records an image."""
        with Image.open(io.BytesIO(png)) as image:
            trackio.log({name: trackio.Image(image.convert("RGB"))}, step=step)

    def close(self) -> None:
        """Waits until the last rows are written."""
        trackio.finish()
