"""Prints settings as text for `albef-ds config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albef_ds.config.files import to_dict
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import Setting, all_settings


def describe(config: RunConfig) -> str:
    """Returns one line per setting: `*` where it differs from the default, path, value, unit, documentation, paper's value."""
    flat = flatten(to_dict(config))
    task: type = type(config.task)
    settings = all_settings(task)
    assignments = {path: f"{path}={value_text(flat[path])}" for path in settings}
    width = min(max(map(len, assignments.values())), 48)
    lines = []
    section = None
    for path, setting in settings.items():
        if section is not None and section != path.rpartition(".")[0]:
            lines.append("")
        section = path.rpartition(".")[0]
        mark = " " if flat[path] == setting.default else "*"
        lines.append(f"{mark} {assignments[path]:<{width}}  {_remark(setting)}")
    return "\n".join(lines)


def differences(config: RunConfig) -> list[tuple[str, str]]:
    """Returns path and value of every setting that is not at its default."""
    flat = flatten(to_dict(config))
    task: type = type(config.task)
    settings = all_settings(task)
    return [(path, value_text(flat[path])) for path, setting in settings.items() if flat[path] != setting.default]


def _remark(setting: Setting) -> str:
    unit = f"[{setting.unit}] " if setting.unit else ""
    choices = f" ({setting.type_name})" if setting.type_name.startswith("one of") else ""
    paper = f" (paper: {setting.paper})" if setting.paper else ""
    return f"{unit}{setting.doc}{choices}{paper}"


def value_text(value: Any) -> str:
    """Returns a setting's value as overrides write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested `values` as one dict with dotted keys, each after `prefix`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
