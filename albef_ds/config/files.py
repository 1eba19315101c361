"""Reads and writes configurations as JSON. A run writes such a file beside its results, and a later run may start from it.

A file may leave settings out (they take their defaults) but must not name one that does not exist.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from albef_ds.common.atomic_files import write_json
from albef_ds.common.errors import ConfigError
from albef_ds.common.run_files import CONFIG_NAME
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import describe_field, find_setting, section_choices, section_types, task_types


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Returns nested plain dicts of JSON types; `from_dict` turns them back into an equal configuration."""
    return asdict(config)


def from_dict(values: dict[str, Any]) -> RunConfig:
    """Returns the configuration with `values`; settings that are not in it take their defaults.

    Raises:
        ConfigError: an unknown key (named, with the nearest known one), a wrong type, or a value that the schema refuses.
    """
    return cast(RunConfig, _build(RunConfig, values, "", task_type(values)))


def task_type(values: dict[str, Any]) -> type:
    """Returns the dataclass for the `kind` of the task in nested `values`, pretraining's without a `kind`.

    Raises:
        ConfigError: the `kind` does not exist.
    """
    task = values.get("task")
    kind = task.get("kind", "pretrain") if isinstance(task, dict) else "pretrain"
    if not isinstance(kind, str) or kind not in task_types():
        raise ConfigError(f"task.kind={kind} cannot be used: give one of {', '.join(task_types())}")
    return task_types()[kind]


def _build(config_type: Any, values: Any, prefix: str, task: type) -> Any:
    hints = section_types(config_type)
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix.rstrip('.')} is {values!r}: give an object of settings")
    for key in values:
        if key not in hints:
            find_setting(prefix + key, task)  # raises with the nearest name, unless the key is a whole dotted path
            raise ConfigError(f"{prefix}{key} is a dotted key: write nested objects instead, one per section")
    arguments: dict[str, Any] = {}
    for entry in fields(config_type):
        if entry.name not in values:
            continue
        path, value = prefix + entry.name, values[entry.name]
        choices = section_choices(hints[entry.name])
        if choices:
            arguments[entry.name] = _build(choices[0] if len(choices) == 1 else task, value, path + ".", task)
        else:
            arguments[entry.name] = describe_field(path, entry, hints[entry.name]).check(value)
    return config_type(**arguments)


def save(config: RunConfig, path: Path) -> None:
    """Writes `config` as JSON, atomically and synced to the disk. Creates missing folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, to_dict(config), durable=True, indent=2, ensure_ascii=False, allow_nan=False)


def load(path: Path) -> RunConfig:
    """Reads a configuration. Raises `ConfigError` that names the file and the problem in it."""
    try:
        return from_dict(read_json_object(path))
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns the JSON object in `path`. Raises `ConfigError` if it is missing, unreadable, no JSON object, or repeats a key."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: give the path of a JSON file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: give a JSON file, such as {path / CONFIG_NAME} of a run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a readable JSON file") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} line {error.lineno} is not JSON ({error.msg}): fix that line") from None
    except _DuplicateKeyError as error:
        raise ConfigError(f"{path} gives {error} twice: keep one") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not contain a JSON object: start it with {{")
    return raw


class _DuplicateKeyError(ValueError):
    """A JSON object repeats a key; json would silently keep the last value."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _DuplicateKeyError(key)
        values[key] = value
    return values
