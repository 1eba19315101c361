"""Configurations as JSON: the file a run writes beside its results and a later one may start from.

A file may leave settings out (they take their defaults) but never names one that does not exist.
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
    """Nested plain dicts of JSON types; `from_dict` gives back an equal configuration."""
    return asdict(config)


def from_dict(values: dict[str, Any]) -> RunConfig:
    """The configuration that `values` spells out, defaults where it says nothing.

    Raises:
        ConfigError: an unknown key (named, with the nearest known one), a wrong type, or a value the schema refuses.
    """
    return cast(RunConfig, _build(RunConfig, values, "", task_type(values)))


def task_type(values: dict[str, Any]) -> type:
    """The dataclass of the task that nested `values` describe: by its `kind`; a file without one is of pretraining.

    Raises:
        ConfigError: a `kind` that does not exist.
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
            raise ConfigError(f"{prefix}{key} stands as one key: nest it, one object per section")
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
    """Write `config` as JSON, atomically and to the disk. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, to_dict(config), durable=True, indent=2, ensure_ascii=False, allow_nan=False)


def load(path: Path) -> RunConfig:
    """Read a configuration. Raises `ConfigError` naming the file and what is wrong in it."""
    try:
        return from_dict(read_json_object(path))
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `ConfigError`: missing, unreadable, not JSON, not an object, a key given twice."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: give the path of a JSON file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder: give a JSON file, such as {path / CONFIG_NAME} of a run") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): give a readable JSON file") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} line {error.lineno} is not JSON ({error.msg}): mend that line") from None
    except _DuplicateKeyError as error:
        raise ConfigError(f"{path} gives {error} twice: keep one") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no JSON object: start it with {{")
    return raw


class _DuplicateKeyError(ValueError):
    """json would silently keep the last of two equal keys."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _DuplicateKeyError(key)
        values[key] = value
    return values
