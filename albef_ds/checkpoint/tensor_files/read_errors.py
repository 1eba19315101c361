"""Explains in a few words why a file does not hold weights, such as the leftovers of failed downloads."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

from albef_ds.common.errors import WeightsError, first_line

_CLASS = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")
_SETTINGS = ("argparse.", "numpy.", "pathlib.", "collections.", "omegaconf.", "types.SimpleNamespace", "yacs.", "easydict.")
"""Classes of settings that training scripts save beside the tensors."""


def unreadable(path: Path, error: Exception) -> WeightsError:
    """The one-line error for `path`, whose reader raised `error`.

    torch's own text is not shown where it recommends running the code in the file.
    """
    fix = "nothing of it was run; fetch it again, or save its tensors alone"
    if isinstance(error, pickle.UnpicklingError) and (named := _CLASS.search(str(error))) and named[1].startswith(_SETTINGS):
        return WeightsError(
            f"{path} cannot be read as weights (it holds an object of {named[1]} beside its tensors): where you trust the file, "
            'save its tensors alone, torch.save(torch.load(FILE, weights_only=False)["model"], NEW), or without ["model"]'
        )
    return WeightsError(f"{path} cannot be read as weights ({_reason(path, error)}): {fix}")


def changed(path: Path, what: str) -> WeightsError:
    """The one-line error for a file some bytes of which are not those that were written."""
    return WeightsError(f"{path} is damaged ({what} has another checksum than it was written with): fetch or write it again")


def _reason(path: Path, error: Exception) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as problem:
        return problem.strerror or type(problem).__name__
    if not start:
        return "it is empty, its download failed"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, which some download links return to programs"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, `git lfs pull` fetches the file"
    if isinstance(error, pickle.UnpicklingError):
        return "it is not a torch file, or holds more than tensors"
    return first_line(error)
