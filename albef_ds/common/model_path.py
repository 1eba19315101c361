"""The first check of a model's path, which commands make before they import torch."""

from __future__ import annotations

from pathlib import Path

from albef_ds.common.errors import WeightsError


def check_exists(path: Path) -> None:
    """Raises `WeightsError` if there is nothing at `path`."""
    if not path.exists():
        raise WeightsError(f"{path} does not exist: give a model folder, a run, a checkpoint folder or a file of weights")
