"""Looks up NVIDIA's apex, if it is installed. The package called apex on PyPI is another project and is rejected."""

from __future__ import annotations

import importlib
from typing import Any


def nvidia_apex(part: str, name: str) -> Any:
    """Returns the module `apex.<part>` if it has `name`, else None."""
    try:
        module = importlib.import_module(f"apex.{part}")
    except ImportError:
        return None
    return module if hasattr(module, name) else None
