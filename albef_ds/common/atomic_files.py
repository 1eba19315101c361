"""Atomic writing: a file or folder gets its final name only when it is complete.

A process that is killed while writing leaves the old file unchanged and a name ending in `.tmp` beside it. Functions raise
`OSError`; `write_output`, for files that the user names, raises `MachineError`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from albef_ds.common.errors import MachineError


def temporary_name(path: Path) -> Path:
    """Returns a name beside `path` that no other process uses, on this machine or another: `NAME.PID-RANDOM.tmp`."""
    return path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")


@contextlib.contextmanager
def scratch_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name beside `path` for a file or a folder, and removes what still has that name when the block ends."""
    temporary = temporary_name(path)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary name for a file or a folder, which is renamed to `path` when the block ends without an exception."""
    with scratch_path(path) as temporary:
        yield temporary
        os.replace(temporary, path)


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[BinaryIO]:
    """Yields a new binary file that becomes `path` when the block ends; `durable` syncs it to the disk first (fsync)."""
    with atomic_path(path) as temporary, open(temporary, "xb") as file:
        yield file
        file.flush()
        if durable:
            os.fsync(file.fileno())


def write_file(path: Path, content: bytes | str, *, durable: bool = False) -> None:
    """Replaces `path` by `content`, text as UTF-8. The folder must exist; `durable` as in `atomic_file`."""
    with atomic_file(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any, *, durable: bool = False, **style: Any) -> None:
    """Replaces `path` by `value` as JSON and a line feed; `style` goes to `json.dumps`."""
    write_file(path, json.dumps(value, **style) + "\n", durable=durable)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Runs the block while no other process is in a block for the same `path`; the empty file `NAME.lock` beside it stays.

    A process that ends in any way gives the lock back. Where files cannot be locked, the block runs as well.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(open(path.with_name(f"{path.name}.lock"), "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_target(path: Path) -> None:
    """Checks that `path` can be written, before the work for it is done. Creates nothing.

    Raises:
        MachineError: `path` is a folder, is below a file, or is in a folder without write permission.
    """
    if path.is_dir():
        raise MachineError(f"{path} is a folder: give the name of a file")
    place = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise MachineError(f"{path} cannot be written ({place} is not a writable folder): give another file")


def write_output(path: Path, content: bytes | str) -> None:
    """Writes a file that the user named and creates missing folders.

    Raises:
        MachineError: `check_target` fails, or the disk reports an error.
    """
    check_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise MachineError(f"{path} cannot be written ({error.strerror}): give another file") from None
