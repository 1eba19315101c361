"""Reads bytes from local paths and URLs, and writes files atomically. Knows no corpus format.

URLs (anything with `://`) go through fsspec; everything this package writes is local.
"""

from __future__ import annotations

import errno
import json
import os
import posixpath
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from albef_ds.common.atomic_files import atomic_file
from albef_ds.common.errors import ConfigError, DataError, MachineError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}
_OPEN_FILES = 16


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk or unwritable folder into a `MachineError` that names `folder`; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_PERMISSION:
            raise MachineError(f"{folder} cannot be written ({error.strerror}): give another folder") from None
        if error.errno not in _NO_ROOM and not (isinstance(error, pa.ArrowException) and "space" in str(error)):
            raise
        raise MachineError(f"no room left to write in {folder}: free some space and run again; finished work is kept") from None


def save_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Creates `path` atomically, synced and with missing folders, from what `write` writes. Raises as `writing_to`."""
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, durable=True) as file:
            write(file)


def encode_json(value: Any) -> bytes:
    """`value` as indented JSON."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")


def save_bytes(path: Path, content: bytes) -> None:
    """Write `content`, atomically."""
    save_atomically(path, lambda file: file.write(content))


def save_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    save_bytes(path, encode_json(value))


def load_json(path: Path) -> Any:
    """The JSON value in a file. Raises DataError, which names the line, if there is no such file or it is not JSON."""
    try:
        with open_source(str(path)) as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist: check the path") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise DataError(f"{path} {place} is not JSON ({error.msg}): fix the file or fetch it again") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): check the file") from None


def save_array(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write a `.npy` file, atomically."""
    save_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


def save_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, atomically."""
    save_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))


def is_url(path: str) -> bool:
    """True if `path` goes through fsspec."""
    return "://" in path


def join(root: str, path: str) -> str:
    """`path` under `root`, unless it is absolute or a URL itself."""
    return path if is_url(path) or path.startswith("/") or not root else posixpath.join(root, path)


def open_source(path: str) -> BinaryIO | IO[bytes]:
    """Open a local file or URL for reading.

    Raises OSError, also for what is no regular file (a pipe or a device might never end); UserError if the URL's kind is unknown
    or lacks its package.
    """
    if not is_url(path):
        return open(_regular(path), "rb")
    with remote(path) as (system, root):
        file: IO[bytes] = system.open(root, "rb")
    return file


@contextmanager
def remote(url: str) -> Iterator[tuple[Any, str]]:
    """Gives fsspec's file system of `url` and the path in it; errors of the protocol's package inside the block become OSError.

    Raises UserError if the kind of URL is unknown or its package is not installed.
    """
    import fsspec  # start-up time: URLs alone need it

    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MachineError(f"{url} cannot be opened ({error}): install that package with pip") from None
    except ValueError as error:
        raise ConfigError(f"{url} cannot be opened ({error}): give a local path, or a URL that fsspec supports") from None
    try:
        yield system, root
    except OSError:
        raise
    except Exception as error:  # each protocol's package has errors of its own
        raise OSError(errno.EIO, f"{url}: {type(error).__name__}: {error}") from None


def exists(path: str) -> bool:
    """True if there is a local file, folder or object under `path`."""
    if not is_url(path):
        return os.path.exists(path)
    with remote(path) as (system, root):
        return bool(system.exists(root))


def list_files(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """`path` if it is a file, else the sorted files directly in it with one of `suffixes`. Raises DataError if there are none."""
    try:
        if is_url(path):
            with remote(path) as (system, root):
                names = system.ls(root, detail=False) if system.isdir(root) else [root]
                found = [system.unstrip_protocol(name) for name in names]
        else:
            found = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
            found = [name for name in found if os.path.exists(name)]
    except OSError as error:
        raise DataError(f"{path} cannot be listed ({error}): check the path and its permissions") from None
    found = sorted(name for name in found if name.lower().endswith(suffixes))
    if not found:
        raise DataError(f"{path} holds no {' or '.join(suffixes)} file: check the path")
    return found


def _regular(path: str) -> int:
    """A descriptor of the regular file `path`. Raises OSError for anything else."""
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


class ByteReader:
    """Reads whole files or ranges of them, keeping the last few local files open. One per process."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, path: str, offset: int = -1, size: int = -1) -> bytes:
        """`size` bytes at `offset` of `path`, or the whole file if `offset` is negative.

        Raises OSError if it is too short or no regular file (a device or a pipe would never end), UserError as `remote`.
        """
        if is_url(path):
            with remote(path) as (system, root):
                content = system.cat_file(root) if offset < 0 else system.cat_file(root, start=offset, end=offset + size)
        elif offset < 0:
            with open(_regular(path), "rb", buffering=0) as file:
                content = file.read()
        else:
            content = os.pread(self._descriptor(path), size, offset)
        if offset >= 0 and len(content) != size:
            raise OSError(errno.EIO, f"{path} ends before byte {offset + size}")
        return bytes(content)

    def _descriptor(self, path: str) -> int:
        if path in self._open:
            self._open.move_to_end(path)
        else:
            if len(self._open) >= _OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[path] = _regular(path)
        return self._open[path]

    def close(self) -> None:
        """Closes all open files."""
        while self._open:
            os.close(self._open.popitem()[1])
