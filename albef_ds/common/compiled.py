"""Loads the libraries that installation compiles from C where there is a compiler."""

from __future__ import annotations

import ctypes
import importlib.util


def load_library(module: str, version_name: str, version: int) -> ctypes.CDLL | None:
    """Returns the library that was built as `module`, or None if it is missing, damaged or of another version.

    `version_name` is the integer in the library that states the version of its functions' names and arguments.
    """
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        return None
    try:
        library = ctypes.CDLL(found.origin)
        fits = ctypes.c_int.in_dll(library, version_name).value == version
    except (OSError, ValueError):  # built for another machine, or before there was a version
        return None
    return library if fits else None
