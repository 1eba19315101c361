"""Reads `section.field=value` from the command line by the type of the field."""

from __future__ import annotations

from collections.abc import Sequence

from albef_ds.common.errors import ConfigError
from albef_ds.config.files import from_dict, to_dict
from albef_ds.config.schema import RunConfig
from albef_ds.config.settings import all_settings, find_setting


def parse_overrides(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """Returns `config` with every override applied; the last override of a field wins.

    The result is checked once, with all overrides applied, so settings that depend on each other can change together.

    Raises:
        ConfigError: an override is not of the form `section.field=value`, names an unknown field (the error has the nearest
            name), has a value of another type, or leads to a combination that the schema refuses.
    """
    values = to_dict(config)
    task: type = type(config.task)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            known = path in all_settings(task)
            form = f"{path}=VALUE without spaces" if known else "section.field=value, for example train.max_steps=100"
            raise ConfigError(f"`{override}` is not a setting: write {form}")
        if path == "recipe":
            raise ConfigError(f"`{override}` cannot change the recipe: give {text} as the recipe")
        if path == "task.kind":
            raise ConfigError(f"`{override}` cannot change the task: give a recipe of that task")
        setting = find_setting(path, task)
        section = values
        *parents, name = path.split(".")
        for parent in parents:
            section = section[parent]
        section[name] = setting.from_text(text)
    return from_dict(values)
