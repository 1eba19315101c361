"""What a file is that should hold weights and does not: what downloads leave behind, said in a few words."""

from __future__ import annotations

import pickle
from pathlib import Path

from albef_ds.common.errors import first_line


def why_unreadable(path: Path, error: Exception) -> str:
    """Why `path` could not be read as weights, in one line of at most 200 characters.

    Args:
        path: the file.
        error: what its reader raised. torch's own text is kept from the user where it recommends to run what the file holds.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as problem:
        return problem.strerror or type(problem).__name__
    if not start:
        return "it is empty, its download failed"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, which download links give to programs"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, `git lfs pull` fetches the file"
    if isinstance(error, pickle.UnpicklingError):
        return "it is no file of torch, or holds more than tensors"
    return first_line(error)
