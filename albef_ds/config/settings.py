"""Lists the settings of `RunConfig` by dotted path, with type and documentation, and reads a value of each type.

`files.py` reads files; `overrides.py` reads the command line's `section.field=value`.
"""

from __future__ import annotations

import difflib
import math
import os
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from albef_ds.common.errors import ConfigError
from albef_ds.config.schema import PretrainConfig, RunConfig

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


@dataclass(frozen=True)
class Setting:
    """One field of the configuration. `path` is dotted (`model.vision.depth`), `annotation` its resolved type."""

    path: str
    annotation: Any
    default: Any
    doc: str
    unit: str
    paper: str

    @property
    def type_name(self) -> str:
        """Returns the type in words, as error messages and tables print it."""
        if get_origin(self.annotation) is Literal:
            return "one of " + ", ".join(get_args(self.annotation))
        return {int: "int", float: "float", bool: "bool (true or false)", str: "text"}[self.annotation]

    def from_text(self, text: str) -> Any:
        """Parses `text`. Raises `ConfigError` that names path, expected type and text."""
        if self.annotation is bool:
            if text.lower() in _TRUE + _FALSE:
                return text.lower() in _TRUE
            raise self._refuse(text)
        try:
            if self.annotation is int:
                return self._whole(text)
            if self.annotation is float:
                return self.check(float(text))
        except (ValueError, OverflowError):
            raise self._refuse(text) from None
        # A shell does not expand the ~ of `data.shards=~/corpus`.
        return self.check(os.path.expanduser(text) if text.startswith("~/") else text)

    def check(self, value: Any) -> Any:
        """Returns `value` if it is of this setting's type (an int is accepted as a float). Raises `ConfigError` otherwise."""
        if self.annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
        elif get_origin(self.annotation) is Literal:
            if isinstance(value, str) and value in get_args(self.annotation):
                return value
        elif type(value) is self.annotation:
            return value
        raise self._refuse(value)

    @staticmethod
    def _whole(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            number = float(text)  # accepts 1e6 for a million samples
            if not number.is_integer():
                raise
            return int(number)

    def _refuse(self, value: Any) -> ConfigError:
        expected = self.type_name if get_origin(self.annotation) is Literal else f"a value of type {self.type_name}"
        finite = ", finite" if self.annotation is float else ""
        return ConfigError(f"{self.path}={value} cannot be used: give {expected}{finite}")


def section_choices(annotation: Any) -> tuple[type, ...]:
    """Returns the dataclasses that a field of this type may hold; none for a setting."""
    choices = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    return choices if all(isinstance(choice, type) and is_dataclass(choice) for choice in choices) else ()


@cache
def task_types() -> dict[str, type]:
    """Returns `task.kind` -> dataclass of its settings, pretraining first."""
    choices = section_choices(section_types(RunConfig)["task"])
    return {str(vars(choice)["kind"]): choice for choice in choices}


def section_types(config_type: type) -> dict[str, Any]:
    """Returns field name -> resolved type of one configuration dataclass."""
    return {name: hint for name, hint in get_type_hints(config_type).items() if get_origin(hint) is not ClassVar}


def describe_field(path: str, entry: Field[Any], annotation: Any) -> Setting:
    """Returns the `Setting` of one dataclass field."""
    assert entry.default is not MISSING, f"{path} has no default"
    meta = entry.metadata
    return Setting(path, annotation, entry.default, meta["doc"], meta["unit"], meta["paper"])


@cache
def all_settings(task_type: type = PretrainConfig) -> dict[str, Setting]:
    """Returns dotted path -> setting of a run whose task is of `task_type`, in the schema's order."""

    def walk(config_type: Any, prefix: str) -> dict[str, Setting]:
        found: dict[str, Setting] = {}
        hints = section_types(config_type)
        for entry in fields(config_type):
            path = prefix + entry.name
            choices = section_choices(hints[entry.name])
            if choices:
                found.update(walk(choices[0] if len(choices) == 1 else task_type, path + "."))
            else:
                found[path] = describe_field(path, entry, hints[entry.name])
        return found

    return walk(RunConfig, "")


def nearest_path(name: str) -> str:
    """Returns the setting of pretraining that is most similar to `name`, such as `batch_size`, or ''."""
    _, found, path = nearest(name, list(all_settings())).rstrip("?").partition(": did you mean ")
    return path.partition(" or ")[0] if found else ""


def nearest(name: str, known: list[str]) -> str:
    """Returns `: did you mean X?` if something in `known` is similar to `name`, else ''."""
    last = name.rpartition(".")[2]
    same_field = [path for path in known if path.rpartition(".")[2] == last]
    close = same_field or difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        by_field = {path.rpartition(".")[2]: path for path in known}
        close = [by_field[field] for field in difflib.get_close_matches(last, list(by_field), n=1, cutoff=0.7)]
    return f": did you mean {' or '.join(close)}?" if close else ""


def find_setting(path: str, task_type: type = PretrainConfig) -> Setting:
    """Returns the setting `path`. Raises `ConfigError` that names the nearest one, a section's field, or the task that has it."""
    settings = all_settings(task_type)
    if path in settings:
        return settings[path]
    inside = [name for name in settings if name.startswith(path + ".")]
    if inside:
        raise ConfigError(f"{path} is a section: name one of its fields, for example {inside[0]}")
    owners = [kind for kind, other in task_types().items() if path in all_settings(other)]
    if owners:
        own = next(kind for kind, other in task_types().items() if other is task_type)
        raise ConfigError(f"{path} is a setting of the task {' and '.join(owners)}, not of {own}: remove it")
    hint = nearest(path, list(settings)) or ": `albef-ds config` lists every setting"
    raise ConfigError(f"there is no setting {path}{hint}")
