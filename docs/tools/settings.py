"""Writes the table of all settings in docs/configuration.md from the classes of the configuration."""

from __future__ import annotations

from albef_ds.config.describe import value_text
from albef_ds.config.settings import Setting, all_settings, task_types
from docs.tools.generated import ROOT, rewrite

PAGE = ROOT / "docs" / "configuration.md"
NAME = "settings"


def markdown_table() -> str:
    """Returns a Markdown table of all settings: path (and tasks if not all have it), type, default, unit, paper, meaning."""
    rows = ["| setting | type | default | unit | paper | meaning |", "|---|---|---|---|---|---|"]
    kinds: dict[Setting, list[str]] = {}
    for kind, task in task_types().items():
        for setting in all_settings(task).values():
            kinds.setdefault(setting, []).append(kind)
    # Settings in the order of their first task, grouped by section.
    sections = list(dict.fromkeys(setting.path.rpartition(".")[0] for setting in kinds))
    for setting in sorted(kinds, key=lambda one: sections.index(one.path.rpartition(".")[0])):
        default = f"`{value_text(setting.default)}`" if setting.default != "" else ""
        tasks = "" if len(kinds[setting]) == len(task_types()) else f" ({', '.join(kinds[setting])})"
        cells = (f"`{setting.path}`{tasks}", setting.type_name, default, setting.unit, setting.paper, setting.doc)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Writes the table."""
    rewrite(PAGE, NAME, markdown_table())


if __name__ == "__main__":
    main()
