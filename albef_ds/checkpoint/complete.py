"""Writes and checks `complete.json`: the list of a checkpoint's files with size and checksum, written last.

A folder without it was never finished. The checksum is xxh3, which finds damage at the speed of memory; lists of earlier versions
have SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from albef_ds.checkpoint.tensor_files.hashed import Entry, Kind, checksum, write_text
from albef_ds.common.run_files import MARKER_NAME

FORMAT = 2
_KINDS: dict[int, Kind] = {1: "sha256", FORMAT: "xxh3_128"}


class DamageError(ValueError):
    """A damaged checkpoint; the text names the file and the problem."""


def _encode(entries: Mapping[str, Entry], version: int = FORMAT) -> str:
    files = {name: {"bytes": entry.bytes, _KINDS[version]: entry.checksum} for name, entry in sorted(entries.items())}
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "format": version, "sha256": own}, indent=1) + "\n"


def write_marker(folder: Path, entries: Mapping[str, Entry]) -> None:
    """Marks `folder` as complete with these files."""
    write_text(folder / MARKER_NAME, _encode(entries))


def read_marker(folder: Path) -> dict[str, Entry]:
    """The files of a complete checkpoint. Raises DamageError if the marker is missing or any byte of it has changed."""
    path = folder / MARKER_NAME
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
        version, files = content["format"], content["files"]
    except FileNotFoundError:
        raise DamageError(f"no {MARKER_NAME}: it was never finished, or written by an earlier version") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DamageError(f"{MARKER_NAME} is damaged") from None
    if not isinstance(version, int) or version not in _KINDS:
        raise DamageError(f"{MARKER_NAME} is of format {version}, this version reads {' and '.join(map(str, _KINDS))}")
    kind = _KINDS[version]
    try:
        entries = {str(name): Entry(int(entry["bytes"]), str(entry[kind]), kind) for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamageError(f"{MARKER_NAME} is damaged") from None
    if raw != _encode(entries, version).encode():
        raise DamageError(f"{MARKER_NAME} is damaged")
    return entries


def check_file(folder: Path, name: str, entry: Entry) -> str:
    """Describes the problem of one listed file; '' if there is none."""
    try:
        size = (folder / name).stat().st_size
        if size != entry.bytes:
            return f"{name} has {size} bytes instead of {entry.bytes}"
        return "" if checksum(folder / name, entry.kind) == entry else f"{name} has another checksum than it was written with"
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
