"""Settings as text: what `albef-ds config` prints and the table in docs/configuration.md.

`python -m albef_ds.config.describe FILE` writes the table anew between the two marker lines of FILE.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from albef_ds.config.files import to_dict
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import Setting, all_settings, task_types
from albef_ds.errors import ConfigError

BEGIN = "<!-- settings: begin (made by `make docs`) -->"
END = "<!-- settings: end -->"


def describe(config: RunConfig) -> str:
    """Every setting, one line each: `*` where it differs from the default, path, value, unit, documentation, paper's value."""
    flat = _flatten(to_dict(config), "")
    task: type = type(config.task)
    settings = all_settings(task)
    assignments = {path: f"{path}={_text(flat[path])}" for path in settings}
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
    """Path and value of every setting that is not at its default."""
    flat = _flatten(to_dict(config), "")
    task: type = type(config.task)
    return [(path, _text(flat[path])) for path, setting in all_settings(task).items() if flat[path] != setting.default]


def markdown_table() -> str:
    """Every setting as a Markdown table: path, type, default, unit, paper's value, meaning; the tasks' own with the tasks."""
    rows = ["| setting | type | default | unit | paper | meaning |", "|---|---|---|---|---|---|"]
    kinds: dict[Setting, list[str]] = {}
    for kind, task in task_types().items():
        for setting in all_settings(task).values():
            kinds.setdefault(setting, []).append(kind)
    # Settings in the order of their first task, those of a section together.
    sections = list(dict.fromkeys(setting.path.rpartition(".")[0] for setting in kinds))
    for setting in sorted(kinds, key=lambda one: sections.index(one.path.rpartition(".")[0])):
        default = f"`{_text(setting.default)}`" if setting.default != "" else ""
        tasks = "" if len(kinds[setting]) == len(task_types()) else f" ({', '.join(kinds[setting])})"
        cells = (f"`{setting.path}`{tasks}", setting.type_name, default, setting.unit, setting.paper, setting.doc)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def update_document(path: Path) -> None:
    """Replace what stands between the marker lines of `path` by the current table. Raises `ConfigError` without markers."""
    text = path.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{path} lacks the lines `{BEGIN}` and `{END}`: put them where the table belongs")
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(f"{head}{BEGIN}\n\n{markdown_table()}\n\n{END}{tail}", encoding="utf-8")
    os.replace(temporary, path)


def _remark(setting: Setting) -> str:
    unit = f"[{setting.unit}] " if setting.unit else ""
    choices = f" ({setting.type_name})" if setting.type_name.startswith("one of") else ""
    paper = f" (paper: {setting.paper})" if setting.paper else ""
    return f"{unit}{setting.doc}{choices}{paper}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _flatten(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


if __name__ == "__main__":
    update_document(Path(sys.argv[1]))
