"""What a tracker does, and what it learns of a run when it opens one. Imports no tracker and no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from albef_ds.common.errors import MachineError

PACKAGES = ("wandb", "mlflow", "trackio")
"""The trackers that need a package, by its name, which is also that of the extra."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it."""

    id: str
    """The same after a resumption; letters and digits."""
    name: str
    project: str
    folder: Path
    """Where a tracker that writes files may keep them, RUN/trackers/NAME."""
    settings: Mapping[str, Any]
    """Every setting by its dotted name, and the lineage of the initial weights."""
    resumed: bool


class Tracker(Protocol):
    """An open run of a tracker. Its methods may fail and may take as long as they like."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Records numbers, which may be NaN or infinite, at a step."""

    def image(self, step: int, name: str, png: bytes) -> None:
        """Records an image at a step."""

    def close(self) -> None:
        """Ends the run as the tracker wants it ended."""


Opener = Callable[[TrackedRun], Tracker]


def check_installed(names: list[str]) -> None:
    """Raises `MachineError` if the package of one of the trackers is not installed."""
    for name in names:
        if name in PACKAGES and importlib.util.find_spec(name) is None:
            raise MachineError(
                f"{name} is not installed: run `pip install albef-ds[{name}]`, or leave {name} out of train.trackers"
            )
