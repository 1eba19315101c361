"""Reading annotation files: JSON and JSON lines with one-line errors, and the check that every picture is there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from albef_ds.common.errors import DataError

SHOWN = 3
"""Missing pictures named in an error; all are counted."""


def read_json(path: Path) -> Any:
    """The JSON in `path`, or the list of a `.jsonl` file's lines.

    Raises:
        DataError: missing, unreadable or not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"annotation file {path} does not exist: give the path of a JSON file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"annotation file {path} cannot be read ({error}): give a readable JSON file") from None
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"annotation file {path} is not JSON (line {error.lineno}: {error.msg}): fetch it again") from None


def entries(path: Path, raw: Any, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of the list `raw`, each with the name that errors call it by.

    Raises:
        DataError: not a list, empty, or an entry that is no object.
    """
    if not isinstance(raw, list):
        raise DataError(f"{path} holds no list: give {kind}")
    if not raw:
        raise DataError(f"{path} is an empty list: give {kind}")
    for number, entry in enumerate(raw):
        if not isinstance(entry, dict):
            raise DataError(f"{path} entry {number} is no object: give {kind}")
        yield f"{path} entry {number}", entry


def field(where: str, entry: dict[str, Any], name: str, types: type | tuple[type, ...]) -> Any:
    """`entry[name]`, of one of `types`.

    Raises:
        DataError: it is missing or of another type.
    """
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, types):
        wanted = " or ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))
        state = f"is {value!r}" if name in entry else "is missing"
        raise DataError(f"{where}: `{name}` {state}: it must be {wanted}")
    return value


def texts(where: str, entry: dict[str, Any], name: str) -> tuple[str, ...]:
    """`entry[name]`, a text or a list of them.

    Raises:
        DataError: it is missing, empty or something else.
    """
    value = field(where, entry, name, (str, list))
    values = (value,) if isinstance(value, str) else tuple(value)
    if not values or not all(isinstance(item, str) for item in values):
        raise DataError(f"{where}: `{name}` must be a text or a list of at least one text")
    return values


def split_paths(setting: str) -> list[Path]:
    """The comma-separated paths in a setting."""
    return [Path(part.strip()) for part in setting.split(",") if part.strip()]


def require_pictures(root: Path, images: Iterable[str], setting: str = "data.image_root") -> None:
    """Count the pictures that are not under `root` before anything is trained or scored.

    Raises:
        DataError: any is missing: how many of how many, and the first few.
    """
    wanted = sorted(set(images))
    # One listing per folder: a stat per picture takes minutes on a network file system.
    present: dict[Path, set[str]] = {}
    missing = []
    for image in wanted:
        path = root / image
        if path.parent not in present:
            try:
                present[path.parent] = {entry.name for entry in path.parent.iterdir()}
            except OSError:
                present[path.parent] = set()
        if path.name not in present[path.parent]:
            missing.append(image)
    if missing:
        shown = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        raise DataError(f"{len(missing)} of {len(wanted)} pictures are missing under {setting} {root}: {shown}; restore them")
