"""Writes and checks `complete.json`: the list of a checkpoint's files with size and SHA-256, written last.

A folder without it was never finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from albef_ds.checkpoint.tensor_files.hashed import Entry, digest, write_text
from albef_ds.common.run_files import MARKER_NAME

FORMAT = 1


class DamageError(ValueError):
    """A damaged checkpoint; the text names the file and the problem."""


def _encode(entries: Mapping[str, Entry]) -> str:
    files = {name: asdict(entries[name]) for name in sorted(entries)}
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "format": FORMAT, "sha256": own}, indent=1) + "\n"


def write_marker(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Marks `folder` as complete with these files."""
    write_text(folder / MARKER_NAME, _encode(entries))


def read_marker(folder: Path) -> dict[str, Entry]:
    """The files of a complete checkpoint. Raises DamageError if the marker is missing or any byte of it has changed."""
    path = folder / MARKER_NAME
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
        version = content["format"]
        entries = {str(name): Entry(int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    except FileNotFoundError:
        raise DamageError(f"no {MARKER_NAME}: it was never finished, or written by an earlier version") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DamageError(f"{MARKER_NAME} is damaged") from None
    if version != FORMAT:
        raise DamageError(f"it is of format {version}, this version reads {FORMAT}")
    if raw != _encode(entries).encode():
        raise DamageError(f"{MARKER_NAME} is damaged")
    return entries


def check_file(folder: Path, name: str, entry: Entry) -> str:
    """Describes the problem of one listed file; '' if there is none."""
    try:
        size = (folder / name).stat().st_size
        if size != entry.bytes:
            return f"{name} has {size} bytes instead of {entry.bytes}"
        return "" if digest(folder / name) == entry else f"{name} has another SHA-256 than it was written with"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
