"""Settings as text."""

from __future__ import annotations

from albef_ds.config.describe import describe
from albef_ds.config.overrides import parse_overrides
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import all_settings


def test_every_setting_has_a_line_with_unit_meaning_and_the_papers_value() -> None:
    lines = describe(RunConfig()).splitlines()
    for path, setting in all_settings().items():
        (line,) = [line for line in lines if line[2:].startswith(path + "=")]
        for part in (setting.doc, setting.unit, setting.paper):
            assert part in line


def test_only_changed_settings_are_marked() -> None:
    lines = describe(parse_overrides(RunConfig(), ["train.seed=1"])).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("*")] == ["train.seed=1"]
