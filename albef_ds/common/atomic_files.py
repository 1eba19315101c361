"""Files that the user names, written under a temporary name and renamed: whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from albef_ds.common.errors import MachineError


def check_target(path: Path, option: str = "") -> None:
    """Refuse a file that cannot be written, before the work for it is done. Makes nothing.

    Args:
        path: the file that will be written.
        option: what the user gave it with, such as `--output`.

    Raises:
        MachineError: `path` is a folder, or lies below a file or in a folder that takes no files.
    """
    if path.is_dir():
        raise MachineError(f"{_named(path, option)} is a folder: give the name of a file")
    place = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise MachineError(f"{_named(path, option)} cannot be written ({place} takes no files): give another file")


def write_whole(path: Path, content: bytes, option: str = "") -> None:
    """Write `content` to `path`, folders on the way are made. Raises `MachineError` as `check_target`, or as the disk refuses."""
    check_target(path, option)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise MachineError(f"{_named(path, option)} cannot be written ({error.strerror}): give another file") from None


def _named(path: Path, option: str) -> str:
    return f"{option} {path}".strip()
