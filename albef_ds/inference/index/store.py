"""Features of named images in an append-only file, memory-mapped, and a log of whose they are. Knows no model and no images.

The log NAME has a line of JSON for each batch, after the line's checksum; its first line names the file of rows beside it, and
every batch has the checksum of its rows. A batch is written as rows first, then as a line, so what a process that ends at any
moment leaves behind does not count, and the next batch is written over it. Several processes append under a lock; where locks
do not work, a batch whose rows another process has written over fails its checksum when the files are next opened, and its
images are encoded again. When more than half of the rows are no longer wanted, the others are copied into new files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_hexdigest

from albef_ds.common.atomic_files import check_target, locked, temporary_name
from albef_ds.common.errors import MachineError

ROWS_SUFFIX = ".rows"
_START = 18  # bytes
_BEGINNING = re.compile(rb"[0-9a-f]{16} \{|[0-9a-f]{1,16} ?$|.{8}\{", re.DOTALL)
"""A checksum and JSON, perhaps cut off, or the header of safetensors."""
_FORMAT = 2
"""Format 1 was one safetensors file (`earlier.py`)."""
_COPIED = 65_536  # rows copied at a time
_SPARE = 4_096
"""Files are copied when more rows than this, and more than half of all, are unwanted."""


@dataclass(frozen=True)
class Table:
    """The features of N images at one moment; never changed."""

    names: tuple[str, ...]
    """Sorted."""
    rows: NDArray[np.int64]
    """(N,): the row of each image among `features`."""
    features: NDArray[np.float32]
    """(M, embed_dim), unit length, memory-mapped; M may be above N."""
    file: str
    """Name of the file of rows: two tables with the same name have the same rows, up to the shorter one's end."""

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """(M,): the place of each row's image among `names`; -1 for rows without one."""
        places = np.full(len(self.features), -1, np.int64)
        places[self.rows] = np.arange(len(self.rows))
        return places


@dataclass
class _Log:
    """What the log says up to byte `size`."""

    header: bytes = b""
    file: str = ""
    entries: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Name -> (stamp, row)."""
    num_rows: int = 0
    size: int = 0


def check_is_index(path: Path) -> None:
    """Checks that `path` does not hold something else, since an index replaces what it cannot read.

    Raises `MachineError` if it is a file that begins like no index of any version.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_START)
    except OSError:
        return
    if start.strip(b"\0") and not _BEGINNING.match(start):
        raise MachineError(f"{path} is no index: give another file, or delete it")


class FeatureStore:
    """The features at `path`. One thread uses an object; any number of processes use the files.

    Args:
        path: the log; other files have names that begin with it.
        identity: hash of what the features depend on besides the images; files of another one are replaced at the first `append`.
        dim: width of a feature.

    Raises:
        MachineError: the log cannot be written (`check_target`).
    """

    def __init__(self, path: Path, identity: str, dim: int) -> None:
        check_target(path)
        self.path, self._identity, self._dim = path, identity, dim
        self._log = _Log()
        self._mapped: NDArray[np.float32] = np.zeros((0, dim), np.float32)
        self.refresh()

    @property
    def stamps(self) -> dict[str, str]:
        """Name -> stamp of all images."""
        return {name: stamp for name, (stamp, _) in self._log.entries.items()}

    def refresh(self) -> None:
        """Reads what other processes have added."""
        for _ in range(20):
            try:
                return self._read()
            except FileNotFoundError:  # another process has just copied the rows and its log names them, or someone deleted them
                self._log = _Log()
        self._mapped = np.zeros((0, self._dim), np.float32)

    def append(self, names: Sequence[str], stamps: Sequence[str], features: NDArray[np.float32]) -> None:
        """Adds the features (N, dim) of images. Raises `MachineError` if the disk does not take them."""
        if not names:
            return
        with written(self.path, self.path):
            self.refresh()
            if not self._log.header:
                self._create(self._log.entries)
            content = np.ascontiguousarray(features, np.float32).tobytes()
            batch = {"at": self._log.num_rows, "names": list(names), "stamps": list(stamps), "sum": xxh3_64_hexdigest(content)}
            _write_at(self._beside(self._log.file), content, self._log.num_rows * self._dim * 4)
            _write_at(self.path, _line(batch), self._log.size, cut=True)
            self.refresh()

    def tidy(self, seen: Mapping[str, str], wanted: Mapping[str, str]) -> None:
        """Copies the files without unwanted rows if these are the greater part.

        Args:
            seen: name -> stamp of what was here when the images were listed; what others have added since is kept.
            wanted: name -> stamp of the listed images.
        """
        unwanted = {(name, stamp) for name, stamp in seen.items() if wanted.get(name) != stamp}
        kept = sum((name, stamp) not in unwanted for name, (stamp, _) in self._log.entries.items())
        if self._log.num_rows <= max(_SPARE, 2 * kept):
            return
        with written(self.path, self.path):
            self.refresh()
            self._create({name: entry for name, entry in self._log.entries.items() if (name, entry[0]) not in unwanted})

    def table(self, wanted: Mapping[str, str]) -> Table:
        """The images of `wanted` (name -> stamp) that are here with that stamp."""
        entries = self._log.entries
        names = sorted(name for name, stamp in wanted.items() if name in entries and entries[name][0] == stamp)
        rows = np.fromiter((entries[name][1] for name in names), np.int64, len(names))
        return Table(tuple(names), rows, self._mapped, self._log.file)

    def _beside(self, name: str) -> Path:
        return self.path.with_name(name)

    def _read(self) -> None:
        try:
            file = open(self.path, "rb")  # noqa: SIM115 (a missing log is no missing file of rows)
        except OSError:
            # Deleted by someone: what is mapped stays usable, and the next batch begins new files.
            self._log.header = b""
            return
        with file:
            header = file.readline()
            if header != self._log.header:
                file_of_rows = self._file_of_rows(header)
                if file_of_rows is None:
                    self._log.header = b""
                    return
                self._log = _Log(header, file_of_rows, size=len(header))
            file.seek(self._log.size)
            lines = file.read()
        added = []
        whole = lines[: lines.rfind(b"\n") + 1]  # a line without an end is being written, or never will be
        for line in whole.splitlines():
            if (batch := _described(line)) is not None:
                added.append(batch)
        self._log.size += len(whole)
        if added:
            end = max(int(batch["at"]) + len(batch["names"]) for batch in added)
            self._map(self._beside(self._log.file), max(end, self._log.num_rows))
            for batch in added:
                self._add(batch)
        elif not self._log.num_rows:
            self._mapped = np.zeros((0, self._dim), np.float32)

    def _file_of_rows(self, header: bytes) -> str | None:
        """The name that the first line of a log gives; None if it is of another format or model, or names a foreign file."""
        described = _described(header)
        expected = (_FORMAT, self._identity, self._dim)
        if not isinstance(described, dict) or tuple(map(described.get, ("albef_index", "model", "dim"))) != expected:
            return None
        name = str(described.get("rows"))
        ours = name.startswith(f"{self.path.name}.") and name.endswith(ROWS_SUFFIX) and "/" not in name
        return name if ours else None

    def _map(self, rows_file: Path, num_rows: int) -> None:
        available = rows_file.stat().st_size // (4 * self._dim)
        self._log.num_rows = num_rows
        # Copy-on-write, since torch does not take an array that cannot be written.
        shape = (min(num_rows, available), self._dim)
        self._mapped = np.memmap(rows_file, np.float32, "c", shape=shape) if shape[0] else np.zeros(shape, np.float32)

    def _add(self, batch: dict[str, Any]) -> None:
        start, names = int(batch["at"]), batch["names"]
        part = self._mapped[start : start + len(names)]
        if len(part) == len(names) and xxh3_64_hexdigest(part.data) == batch["sum"]:
            for row, (name, stamp) in enumerate(zip(names, batch["stamps"], strict=True), start):
                self._log.entries[name] = (stamp, row)

    def _create(self, entries: Mapping[str, tuple[str, int]]) -> None:
        """New files with `entries` of the present ones, in place of what is there."""
        name = f"{self.path.name}.{os.urandom(6).hex()}{ROWS_SUFFIX}"
        header = _line({"albef_index": _FORMAT, "model": self._identity, "dim": self._dim, "rows": name})
        log = temporary_name(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        listed = sorted(entries, key=lambda name: entries[name][1])
        try:
            with open(self._beside(name), "xb") as rows, open(log, "xb") as lines:
                lines.write(header)
                for start in range(0, len(listed), _COPIED):
                    part = listed[start : start + _COPIED]
                    content = self._mapped[[entries[one][1] for one in part]].tobytes()
                    rows.write(content)
                    stamps = [entries[one][0] for one in part]
                    lines.write(_line({"at": start, "names": part, "stamps": stamps, "sum": xxh3_64_hexdigest(content)}))
            os.replace(log, self.path)
        except BaseException:
            for made in (log, self._beside(name)):
                made.unlink(missing_ok=True)
            raise
        for old in self.path.parent.glob(f"{_literal(self.path.name)}.*{ROWS_SUFFIX}"):
            if old.name != name:
                with contextlib.suppress(OSError):
                    old.unlink()
        self.refresh()


@contextlib.contextmanager
def written(file: Path, index: Path) -> Iterator[None]:
    """Holds the lock of `file`, one of those of `index`, while the block writes. Raises `MachineError` if the disk refuses."""
    try:
        with locked(file):
            yield
    except OSError as error:
        raise MachineError(f"{index} cannot be written ({error.strerror}): give another file") from None


def _line(content: dict[str, Any]) -> bytes:
    body = json.dumps(content).encode("ascii")
    return xxh3_64_hexdigest(body).encode("ascii") + b" " + body + b"\n"


def _described(line: bytes) -> dict[str, Any] | None:
    """The content of a whole line; None if it is damaged."""
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if checksum != xxh3_64_hexdigest(body).encode("ascii"):
        return None
    found: dict[str, Any] = json.loads(body)
    return found


def _write_at(path: Path, content: bytes, place: int, *, cut: bool = False) -> None:
    """Writes at byte `place`; `cut` first removes what is behind it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if cut:
            os.ftruncate(descriptor, place)
        left = memoryview(content)
        while left:
            written = os.pwrite(descriptor, left, place)
            left, place = left[written:], place + written
    finally:
        os.close(descriptor)


def _literal(name: str) -> str:
    """A pattern that matches just `name`."""
    return "".join(f"[{mark}]" if mark in "*?[" else mark for mark in name)
