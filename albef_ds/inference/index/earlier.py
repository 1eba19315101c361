"""Reads the index that earlier versions kept: one safetensors file of features, with names and stamps in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

SUFFIX = ".safetensors"


def read_earlier(path: Path, identity: Callable[[Any], str], current: str) -> tuple[dict[str, str], NDArray[np.float32]] | None:
    """Name -> stamp in the order of the features (N, embed_dim); None if there is no such index, or one of another model.

    Args:
        path: the file.
        identity: the model's hash by another hash function (versions before xxh3 used SHA-256).
        current: the model's hash.
    """
    try:
        with safe_open(path, "np") as stored:
            described = stored.metadata() or {}
            model = described["model"]
            if model != (identity(hashlib.sha256()) if len(model) == 2 * hashlib.sha256().digest_size else current):
                return None
            stamps: dict[str, str] = json.loads(described["stamps"])
            features: NDArray[np.float32] = stored.get_tensor("features")
            return (stamps, features) if len(stamps) == len(features) else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
