"""The working folder: one subfolder per stage, with the settings that made it.

A stage with unchanged settings (its own and those of the stages before it) is continued or counts as done. With other
settings, a map stage is removed only on request; a reduction, which takes minutes, runs again.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from albef_ds.common.errors import ConfigError, DataError
from data_tools.files.storage import load_json, save_json

SETTINGS_NAME = "settings.json"
DONE_NAME = "done.json"


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
        """The summary that `finish` stored."""
        summary: dict[str, Any] = load_json(self.folder / DONE_NAME)
        return summary

    def finish(self, summary: dict[str, Any]) -> None:
        """Marks the stage as finished."""
        save_json(self.folder / DONE_NAME, summary)


def digest_of(settings: dict[str, Any]) -> str:
    """Hex digest of JSON-able settings."""
    return xxhash.xxh3_128_hexdigest(json.dumps(settings, sort_keys=True).encode())


def open_stage(work: Path, name: str, settings: dict[str, Any], *, is_map: bool, restart: bool = False) -> StageFolder:
    """Makes or continues stage `name`. Raises ConfigError if a map stage began with other settings and `restart` is not set."""
    folder = work / name
    stage = StageFolder(folder, digest_of(settings))
    path = folder / SETTINGS_NAME
    if path.exists():
        before = load_json(path)
        if before["digest"] == stage.digest and not restart:
            return stage
        if is_map and not restart:
            old = before["settings"]
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
    """Opens a finished stage. Raises DataError if it is missing or unfinished."""
    folder = work / name
    if not (folder / DONE_NAME).exists():
        raise DataError(f"{folder} is not finished: run `albef-data {name}` first")
    return StageFolder(folder, str(load_json(folder / SETTINGS_NAME)["digest"]))
