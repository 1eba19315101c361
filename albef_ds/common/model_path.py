"""The first check of a model's path, which commands make before they import torch."""

from __future__ import annotations

from pathlib import Path

from albef_ds.common.errors import WeightsError
from albef_ds.common.urls import is_collapsed_url


def check_exists(path: Path) -> None:
    """Raises `WeightsError` if there is nothing at `path`."""
    if not path.exists() and is_collapsed_url(path):
        url = str(path).replace(":/", "://", 1)
        raise WeightsError(f"{url} is a URL: copy the model, or the folder of the checkpoint, to a local disk first")
    if not path.exists():
        raise WeightsError(f"{path} does not exist: give a model folder, a run, a checkpoint folder or a file of weights")
