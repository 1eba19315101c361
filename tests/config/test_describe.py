"""Settings as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from albef_ds.config.describe import BEGIN, END, describe, markdown_table, update_document
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import all_settings
from albef_ds.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_has_a_line_with_unit_meaning_and_the_papers_value() -> None:
    lines = describe(RunConfig()).splitlines()
    for path, setting in all_settings().items():
        (line,) = [line for line in lines if line[2:].startswith(path + "=")]
        for part in (setting.doc, setting.unit, setting.paper):
            assert part in line


def test_only_changed_settings_are_marked() -> None:
    lines = describe(parse_overrides(RunConfig(), ["train.seed=1"])).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["train.seed=1"]


def test_the_table_in_the_documentation_is_current() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    between = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert between == markdown_table(), "docs/configuration.md is behind the schema: run `make docs`"


def test_updating_replaces_the_table_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")
    update_document(page)
    assert page.read_text(encoding="utf-8") == f"above\n{BEGIN}\n\n{markdown_table()}\n\n{END}\nbelow\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ConfigError, match="lacks the lines"):
        update_document(page)
