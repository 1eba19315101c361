"""Reads annotation files in JSON and JSON lines with one-line errors, and checks that every image exists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from albef_ds.common.errors import DataError

SHOWN = 3
"""Number of missing images named in an error; all are counted."""


def read_json(path: Path) -> Any:
    """Returns the JSON value in `path`, or the list of its lines if each line is a value (JSON lines, as NLVR2's `.json` files).

    A byte-order mark is skipped. Only a line feed ends a line: texts may hold other line separators, such as U+2028.

    Raises:
        DataError: the file is missing, unreadable or not JSON.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"annotation file {path} does not exist: give the path of a JSON file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"annotation file {path} cannot be read ({error}): give a readable JSON file") from None
    try:
        value = json.loads(text)
        return [value] if path.suffix.lower() == ".jsonl" and isinstance(value, dict) else value
    except json.JSONDecodeError as error:
        first_value = text[: error.pos].strip() if error.msg == "Extra data" else "\n"
        if "\n" not in first_value or path.suffix.lower() == ".jsonl":
            return _json_lines(path, text)
        raise _broken(path, error.lineno, error, text, is_last=True) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"annotation file {path} cannot be read as JSON ({error}): correct the value") from None


def _json_lines(path: Path, text: str) -> list[Any]:
    values = []
    for number, line in enumerate(lines := text.rstrip().split("\n"), start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise _broken(path, number, error, line, is_last=number == len(lines)) from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"annotation file {path} line {number} cannot be read ({error}): correct the line") from None
    return values


def _broken(path: Path, line: int, error: json.JSONDecodeError, text: str, *, is_last: bool) -> DataError:
    """The error of broken JSON. A file that ends early was copied or downloaded in part; any other fault is in its text."""
    at_end = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    fix = "it ends early, fetch it again" if at_end and is_last else "correct that line"
    return DataError(f"annotation file {path} is not JSON (line {line}: {error.msg}): {fix}")


def entries(path: Path, raw: Any, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of the list `raw`, each with its name for error messages.

    Raises:
        DataError: `raw` is not a list, is empty, or has an entry that is not an object.
    """
    if not isinstance(raw, list):
        raise DataError(f"{path} holds no list: give {kind}")
    if not raw:
        raise DataError(f"{path} is an empty list: give {kind}")
    for number, entry in enumerate(raw):
        if not isinstance(entry, dict):
            raise DataError(f"{path} entry {number} is not an object: give {kind}")
        yield f"{path} entry {number}", entry


def field(where: str, entry: dict[str, Any], name: str, types: type | tuple[type, ...]) -> Any:
    """Returns `entry[name]`. Raises `DataError` if it is missing or of none of `types`."""
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, types):
        wanted = " or ".join(kind.__name__ for kind in (types if isinstance(types, tuple) else (types,)))
        state = f"is {value!r}" if name in entry else "is missing"
        raise DataError(f"{where}: `{name}` {state}: it must be {wanted}")
    return value


def texts(where: str, entry: dict[str, Any], name: str) -> tuple[str, ...]:
    """Returns `entry[name]` as a tuple of texts. Raises `DataError` unless it is a text or a list of at least one text."""
    value = field(where, entry, name, (str, list))
    values = (value,) if isinstance(value, str) else tuple(value)
    if not values or not all(isinstance(item, str) for item in values):
        raise DataError(f"{where}: `{name}` must be a text or a list of at least one text")
    return values


def split_paths(setting: str) -> list[Path]:
    """Returns the comma-separated paths in a setting."""
    return [Path(part.strip()) for part in setting.split(",") if part.strip()]


def require_images(root: Path, images: Iterable[str], setting: str = "data.image_root") -> None:
    """Checks that all images are under `root`, before anything is trained or scored.

    Raises:
        DataError: images are missing; the message has their number and the first few.
    """
    wanted = sorted(set(images))
    # One listing per folder: a stat per image takes minutes on a network file system.
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
        raise DataError(f"{len(missing)} of {len(wanted)} images are missing under {setting} {root}: {shown}; restore them")
