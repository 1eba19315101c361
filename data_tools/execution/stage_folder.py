"""The working folder: one subfolder per stage, with the settings that made it.

A stage with unchanged settings (its own and those of the stages before it) is continued or counts as done. With other
settings, a map stage is removed only on request; a reduction, which takes minutes, runs again.

A finished stage holds the checksums of its files. A process compares each file once, when it first reads it, so a damaged
file is never used: a reduction runs again, and for a map stage one line names the mend.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from numpy.typing import NDArray

from albef_ds.common.errors import ConfigError, DataError
from albef_ds.data.shards.format import ARRAY_FAULTS
from data_tools.files.storage import encode_json, load_json, save_bytes, save_json

SETTINGS_NAME = "settings.json"
DONE_NAME = "done.json"
SUMS_NAME = "sums.json"
_REDUCTIONS = ("filter", "dedup", "decontaminate", "plan")
Value = TypeVar("Value")


class DamagedStageError(DataError):
    """A file of a stage is not as the stage wrote it."""

    def __init__(self, path: Path, problem: str) -> None:
        self.stage, self.is_map = path.parent.name, path.parent.name not in _REDUCTIONS
        super().__init__(f"{path} is damaged ({problem}): make the stage {self.stage} again{' with restart' * self.is_map}")


@dataclass(frozen=True)
class StageFolder:
    """An open stage: its `folder`, and the `digest` of everything that decides its result."""

    folder: Path
    digest: str

    @property
    def done(self) -> bool:
        """True if the stage is finished."""
        return (self.folder / DONE_NAME).exists()

    @property
    def summary(self) -> dict[str, Any]:
        """The summary that `finish` stored. Raises DataError if it is damaged."""
        return read_object(self.folder, DONE_NAME)

    def finish(self, summary: dict[str, Any]) -> None:
        """Stores the checksums of all files, and marks the stage as finished."""
        done = encode_json(summary)
        names = sorted(path.name for path in self.folder.iterdir() if path.is_file() and path.suffix != ".tmp")
        sums = {name: _checksum((self.folder / name).read_bytes()) for name in names if name not in (DONE_NAME, SUMS_NAME)}
        sums[DONE_NAME] = _checksum(done)
        save_json(self.folder / SUMS_NAME, {"files": sums, "digest": digest_of(sums)})
        save_bytes(self.folder / DONE_NAME, done)

    def is_sound(self) -> bool:
        """True if every file of the finished stage is as it was written."""
        try:
            for name in _sums(self.folder) or ():
                checked_path(self.folder, name)
        except DamagedStageError:
            return False
        return True


def _checksum(content: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(content)


def digest_of(settings: dict[str, Any]) -> str:
    """Hex digest of JSON-able settings."""
    return xxhash.xxh3_128_hexdigest(json.dumps(settings, sort_keys=True).encode())


def checked_path(folder: Path, name: str) -> Path:
    """The path of file `name` of the stage in `folder`.

    Raises DamagedStageError if the stage is finished and the file is not as it was then. Stages of older versions, and unfinished
    ones, have no checksums.
    """
    path = folder / name
    wanted = (_sums(folder) or {}).get(name)
    if wanted is not None:
        try:
            found = os.stat(path)
        except OSError:
            raise DamagedStageError(path, "it is missing") from None
        if not stat.S_ISREG(found.st_mode):
            raise DamagedStageError(path, "it is not a regular file")
        if not _is_whole(path, wanted, found.st_size, found.st_mtime_ns):
            raise DamagedStageError(path, "its checksum differs")
    return path


def _sums(folder: Path) -> dict[str, str] | None:
    """Checksums by file name of a finished stage; None if there are none."""
    path = folder / SUMS_NAME
    if not path.exists() or not (folder / DONE_NAME).exists():
        return None
    found = os.stat(path)
    return _load_sums(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _load_sums(path: Path, size: int, mtime_ns: int) -> dict[str, str]:
    try:
        raw = json.loads(path.read_bytes())
        sums: dict[str, str] = raw["files"]
        if digest_of(sums) == raw["digest"]:
            return sums
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise DamagedStageError(path, "its checksum differs")


@lru_cache(maxsize=100_000)
def _is_whole(path: Path, wanted: str, size: int, mtime_ns: int) -> bool:
    return _checksum(path.read_bytes()) == wanted


def _read(folder: Path, name: str, load: Callable[[Path], Value]) -> Value:
    path = checked_path(folder, name)
    try:
        return load(path)
    except (pa.ArrowException, *ARRAY_FAULTS, RecursionError, DataError) as error:
        raise DamagedStageError(path, (str(error).splitlines() or [type(error).__name__])[0][:150]) from None


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a stage's file. Raises DamagedStageError."""

    def load(path: Path) -> dict[str, Any]:
        value = load_json(path)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value

    return _read(folder, name, load)


def read_list(folder: Path, name: str) -> list[Any]:
    """The JSON list in a stage's file. Raises DamagedStageError."""
    return _read(folder, name, lambda path: list(load_json(path)))


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """The `.npy` array in a stage's file. Raises DamagedStageError."""
    return _read(folder, name, lambda path: np.load(path, allow_pickle=False))


def read_columns(folder: Path, name: str, columns: list[str] | None = None) -> pa.Table:
    """Columns of a stage's Parquet file. Raises DamagedStageError."""
    return _read(folder, name, lambda path: pq.read_table(path, columns=columns))


def open_stage(work: Path, name: str, settings: dict[str, Any], *, is_map: bool, restart: bool = False) -> StageFolder:
    """Makes or continues stage `name`; a damaged reduction is made again.

    Raises ConfigError if a map stage began with other settings and `restart` is not set, DamagedStageError if it is damaged.
    """
    folder = work / name
    stage = StageFolder(folder, digest_of(settings))
    path = folder / SETTINGS_NAME
    if path.exists() and not restart:
        try:
            before = read_object(folder, SETTINGS_NAME)
            same, old = before["digest"] == stage.digest, dict(before["settings"])
            if is_map and stage.done:
                checked_path(folder, DONE_NAME)
        except (LookupError, TypeError, ValueError):
            same, old = False, {}
            if is_map:
                raise DamagedStageError(path, "it lacks a field") from None
        except DamagedStageError:
            if is_map:
                raise
            same = False
        if same and (is_map or not stage.done or stage.is_sound()):
            return stage
        if is_map:
            changed = next((key for key in sorted({*old, *settings}) if old.get(key) != settings.get(key)), "settings")
            raise ConfigError(f"{folder} was made with another {changed}: make it again with restart, or use another work folder")
    if path.exists():
        # Renamed first, so that a kill here leaves no half-emptied folder under the stage's name.
        rubbish = work / f".{name}.{os.getpid()}.old"
        os.replace(folder, rubbish)
        shutil.rmtree(rubbish)
    save_json(path, {"digest": stage.digest, "settings": settings})
    return stage


def load_stage(work: Path, name: str) -> StageFolder:
    """Opens a finished stage. Raises DataError if it is missing, unfinished or damaged."""
    folder = work / name
    if not (folder / DONE_NAME).exists():
        raise DataError(f"{folder} is not finished: run `albef-data {name}` first")
    checked_path(folder, DONE_NAME)
    settings = read_object(folder, SETTINGS_NAME)
    if not isinstance(settings.get("digest"), str):
        raise DamagedStageError(folder / SETTINGS_NAME, "it lacks a field")
    return StageFolder(folder, settings["digest"])
