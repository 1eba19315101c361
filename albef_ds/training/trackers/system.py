"""Figures of the process and images as PNG, for trackers."""

from __future__ import annotations

import io
import os
from typing import Any

import torch
from PIL import Image


def system_figures() -> dict[str, float]:
    """Memory of this process in GB, resident, and on a GPU the most that was allocated since the start."""
    found: dict[str, float] = {}
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            found["system/memory_gb"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (OSError, ValueError, IndexError):
        pass
    if torch.cuda.is_available():
        found["system/gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def png_of(image: Any) -> bytes:
    """An array uint8 (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
